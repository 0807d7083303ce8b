# The commands of this repository; `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
export PATH := $(BIN):$(PATH)
WHEELS := roles/mesh_daemon/files/wheels
DAEMON := daemon/pyproject.toml $(shell find daemon/src -name '*.py')
LAB ?= demo
WORKERS ?= 2

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

# ---- the two commands of the README

demo: venv wheels collections ## two real clusters, one playbook, pods that reach each other, federated Services
	@lab setup
	@python -m demo --lab $(LAB)

demo-down: venv ## remove everything the demo made
	@lab --lab $(LAB) down

test: venv wheels collections lint ## everything: style, types, unit, API, kernel and end-to-end tests; WORKERS=1 for one after the other
	@lab setup
	@lab build
	@python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

# ---- parts of it

lint: venv collections ## style, types, layers, Ansible lint and sanity
	@$(MAKE) --no-print-directory --jobs 2 lint-sanity lint-ansible lint-python

lint-python: venv
	@echo "==> ruff, mypy, import layers"
	@ruff check .
	@ruff format --check .
	@cd daemon && mypy --no-error-summary && lint-imports --config pyproject.toml > /dev/null
	@cd lab && mypy --no-error-summary

lint-ansible: venv collections
	@echo "==> ansible-lint, antsibull-docs"
	@ANSIBLE_COLLECTIONS_PATH=$(CURDIR)/collections ansible-lint --offline --profile production -q
	@ANSIBLE_COLLECTIONS_PATH=$(CURDIR)/collections antsibull-docs lint-collection-docs --plugin-docs --validate-collection-refs=self .

lint-sanity: venv
	@echo "==> ansible-test sanity"
	@tests/sanity.sh

test-fast: venv wheels collections ## only the tests that need no lab
	@python -m pytest -m "not lab and not slow"

test-faults: venv ## every fault of the catalogue, the slow ones included
	@python -m pytest -m faults

test-slow: venv wheels collections ## what `make test` leaves out: every fault, Molecule scenario, image and ansible-core release (hours)
	@lab setup && lab build
	@python -m pytest -m slow

test-molecule: venv wheels collections ## every Molecule scenario: join, leave, rotate, switch, upgrade, failure
	@lab setup && lab build
	@molecule test --all

test-netpol: venv wheels collections ## Kubernetes' own network policy suite on Calico with the mesh on (about 10 minutes)
	@lab setup && lab build e2e
	@mkdir -p build && lab --lab netpol up calico --machines && lab --lab netpol inventory > build/inventory-netpol.yml
	@ansible-playbook -i build/inventory-netpol.yml mesh.yml
	@lab --lab netpol e2e -o $(CURDIR)/build/netpol west
	@lab --lab netpol down

bench: venv ## a benchmark beside its reference: NAME=, ARGS=; without a name the list
	@python -m bench $(or $(NAME),--list) $(ARGS)

# ---- set-up; each is made once and again when what it is made from changes

$(VENV)/.ready: requirements-dev.txt daemon/pyproject.toml lab/pyproject.toml
	@echo "==> Python environment in $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "python 3.11 or newer is needed")'
	@$(PYTHON) -m venv $(VENV) || { echo "apt-get install python3-venv, then again" >&2; exit 1; }
	@sed -n '/^uv==/,/# via/p' requirements-dev.txt | $(VENV)/bin/pip install --quiet --require-hashes -r /dev/stdin
	@$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --require-hashes -r requirements-dev.txt
	@$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --no-deps --no-build-isolation -e daemon -e lab
	@touch $@

venv: $(VENV)/.ready ## the Python environment with everything the other commands use

$(WHEELS)/.ready: $(DAEMON) daemon/requirements.txt requirements-dev.txt
	@echo "==> Wheels of the daemon and its dependencies in $(WHEELS)"
	@rm -rf $(WHEELS) && mkdir -p $(WHEELS)
	@umask 022; export SOURCE_DATE_EPOCH="$$(git log -1 --format=%ct -- daemon 2> /dev/null || echo 315532800)"; \
		$(VENV)/bin/pip wheel --quiet --require-hashes -r daemon/requirements.txt --wheel-dir $(WHEELS); \
		$(VENV)/bin/pip wheel --quiet --no-deps --no-build-isolation ./daemon --wheel-dir $(WHEELS)
	@cd $(WHEELS) && sha256sum *.whl > SHA256SUMS
	@rm -rf daemon/build && touch $@

wheels: venv $(WHEELS)/.ready ## the wheels that role mesh_daemon carries

image: venv wheels ## the daemon as an OCI archive: build/clustermeshd-image.tar; ARGS=--name NAME:TAG
	@python -m image $(ARGS)

image-lock: venv ## the Debian packages of today into the image's lock file
	@python -m image --lock

collections: collections/ansible_collections/clustermesh/core ## the link by which Ansible finds this checkout

collections/ansible_collections/clustermesh/core:
	@mkdir -p $(@D) && ln -sfn ../../.. $@

LOCK := uv pip compile --quiet --python-version 3.11 --no-header --annotation-style line --generate-hashes
lock: venv ## pin requirements-dev.in into requirements-dev.txt, and of these what the daemon needs; with hashes
	@$(LOCK) requirements-dev.in -o requirements-dev.txt
	@$(LOCK) daemon/pyproject.toml --constraint requirements-dev.txt -o daemon/requirements.txt

clean: ## what the set-up made in this checkout (caches of the user stay)
	@rm -rf $(VENV) collections $(WHEELS) daemon/build lab/build

.PHONY: help demo demo-down test test-fast test-faults test-slow test-molecule test-netpol bench lint lint-python lint-ansible lint-sanity venv wheels image image-lock collections lock clean
