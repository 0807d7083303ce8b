#!/usr/bin/env bash
# ansible-test sanity over the collection: the files of this checkout that belong to it, in the place ansible-test demands.
# Prints only what is wrong. The environments it makes stay in the user's cache for the next run.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
PATH=$root/.venv/bin:$PATH
tree=${XDG_CACHE_HOME:-$HOME/.cache}/clustermesh/sanity/ansible_collections/clustermesh/core
mkdir -p "$tree"
exec 9> "$tree/../lock"
flock 9

# a fresh copy; tests/output holds ansible-test's environments
find "$tree" -mindepth 1 -maxdepth 1 ! -name tests -exec rm -rf {} +
cd "$root"
git ls-files -z --cached --others --exclude-standard -- \
    galaxy.yml README.md LICENSE CHANGELOG.md requirements.yml mesh.yml meta plugins roles playbooks inventory changelogs tests/config.yml tests/sanity |
    while IFS= read -r -d '' file; do [[ ! -e $file ]] || printf '%s\0' "$file"; done |
    tar --null --files-from - --create | tar --extract --directory "$tree"

# ansible-test fetches a script that installs pip; the environment has pip already, so that this one does as well
script=$HOME/.ansible/test/cache/get_pip_24_2.py
if [[ ! -e $script ]]; then
    mkdir -p "${script%/*}"
    cat > "$script" << 'PYTHON'
"""Installs pip and what is asked for with the Python that runs this."""
import runpy
import sys

if __name__ == "__main__":
    import ensurepip

    ensurepip.bootstrap(upgrade=True, default_pip=True)
    skipped = {"--no-setuptools", "--no-wheel"}
    wanted = [argument for argument in sys.argv[1:] if argument not in skipped and not argument.startswith("pip==")]
    if [argument for argument in wanted if not argument.startswith("-")]:
        sys.argv = ["pip", "install", *wanted]
        runpy.run_module("pip", run_name="__main__")
PYTHON
fi

cd "$tree"
log=$tree/../sanity.log
if ! ansible-test sanity --venv --python 3.11 --color no "$@" > "$log" 2>&1; then
    grep -E '^(ERROR|FATAL|WARNING)|^[^ ]+:[0-9]+:[0-9]+:' "$log" >&2 || tail -40 "$log" >&2
    exit 1
fi
