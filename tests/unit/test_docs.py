"""The documents say what the code does, as far as a program can tell."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from clustermeshd.agent.metrics import Metrics as AgentMetrics
from clustermeshd.controller.metrics import Metrics as ControllerMetrics
from clustermeshd.kube import errors
from clustermeshd.model.errors import Retriable

from tests import plugin_reference, reference

ROOT = reference.ROOT
SOURCES = ROOT / "daemon" / "src" / "clustermeshd"
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]

# what can become a reason of a RemoteClusterConfiguration, of an object refused, or of an Event
JUDGES = [
    *sorted((SOURCES / "controller").glob("*.py")),
    *sorted((SOURCES / "kube").glob("*.py")),
    *(
        SOURCES / "plan" / name
        for name in (
            "admission.py",
            "configurations.py",
            "federation.py",
            "imports.py",
            "peerstatus.py",
            "remotenodes.py",
            "staleness.py",
        )
    ),
    SOURCES / "selector" / "tokens.py",
]
PLACES = {
    "Refused": 0,
    "Rejected": 0,
    "TooLarge": 0,
    "Untrusted": 0,
    "Refusal": 0,
    "Verdict": 2,
    "warn": 3,
    "__init__": 0,
}
OF_EVENTS = {"InvalidServiceSelector", "InvalidStaleness", "InvalidAffinity", "NotFederated", "NameTaken"}
WITHOUT_PLAYBOOKS = {"mesh_preflight_name", "mesh_preflight_others"}  # variables of a role that playbooks leave alone
RENAMED = {"InvalidSelector"}  # in an Event it is InvalidServiceSelector


def reasons(source: Path) -> Iterator[str]:
    """Words that a module uses as the reason of something."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            place = PLACES.get(name, len(node.args))
            said = [*node.args[place : place + 1], *(k.value for k in node.keywords if k.arg == "reason")]
        elif isinstance(node, ast.FunctionDef) and node.name.endswith("_reason"):
            said = [
                part for part in ast.walk(node) if isinstance(part, ast.IfExp) for part in (part.body, part.orelse)
            ]
        else:
            continue
        yield from (part.value for part in said if isinstance(part, ast.Constant) and isinstance(part.value, str))


def used() -> set[str]:
    families = {kind.__name__ for kind in vars(errors).values() if isinstance(kind, type) and kind is not Retriable}
    retriable = {name for name in families if issubclass(getattr(errors, name), Retriable)}
    return retriable | {reason for source in JUDGES for reason in reasons(source) if reason[:1].isupper()}


def documented() -> set[str]:
    return {reason for table in reference.CONDITIONS.values() for reason in table} | set(reference.REFUSALS)


def test_the_reference_of_the_remote_cluster_configuration_is_what_its_definition_says():
    assert reference.PAGE.read_text() == reference.page(), "run: python -m tests.reference"


def test_every_reason_that_the_controller_can_give_is_explained_and_no_other():
    assert used() == documented() | OF_EVENTS | RENAMED
    told = (ROOT / "docs" / "troubleshooting.md").read_text()
    assert not [reason for reason in OF_EVENTS if f"| `{reason}`" not in told]


def test_every_problem_that_an_agent_can_have_is_explained_and_no_other():
    others = {"AnyT", "ValueT", "InternalIP"}  # words of that form which the plan of a node uses otherwise
    made = {
        node.value
        for source in (SOURCES / "plan").glob("overlay*.py")
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if re.fullmatch(r"([A-Z]+[a-z]*){2,}", node.value)
    } - others
    told = (ROOT / "docs" / "troubleshooting.md").read_text()
    rows = told.partition("## Reasons in `MeshNode.status.problems`")[2].partition("\n## ")[0].splitlines()
    named = [re.findall(r"`(\w+)`", row.split(" | ")[0]) for row in rows if row.startswith("| `")]
    assert sorted(name for names in named for name in names) == sorted(made)


@pytest.mark.parametrize("metrics", [ControllerMetrics, AgentMetrics])
def test_every_metric_is_explained_with_its_labels(metrics):
    rows = (ROOT / "docs" / "metrics.md").read_text().splitlines()
    for collector in metrics().registry._collector_to_names:
        name = collector._name + ("_total" if collector._type == "counter" else "")
        (row,) = [row for row in rows if row.startswith(f"| `{name}`")]
        assert row.split(" | ")[2] == (", ".join(f"`{label}`" for label in collector._labelnames) or "none"), name


def test_no_metric_is_explained_that_there_is_not():
    rows = (ROOT / "docs" / "metrics.md").read_text()
    known = {
        collector._name + ("_total" if collector._type == "counter" else "")
        for metrics in (ControllerMetrics(), AgentMetrics())
        for collector in metrics.registry._collector_to_names
    }
    assert set(re.findall(r"^\| `([a-z_]+)`", rows, re.MULTILINE)) == known


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return re.sub(r"^(```|~~~).*?^\1", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_and_a_heading_of_it(page):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, anchor = unquote(target).partition("#")
        file = page.parent / path if path else page
        if "://" not in target and (not file.exists() or (anchor and anchor not in anchors(file))):
            broken.append(target)
    assert not broken


def test_the_references_of_modules_and_roles_are_what_these_say_of_themselves():
    for page, text in plugin_reference.pages().items():
        assert page.read_text() == text, "run: python -m tests.reference"


def test_every_playbook_has_its_section():
    headings = re.findall(r"^## ([a-z_]+)$", (ROOT / "docs" / "playbooks.md").read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(file.stem for file in (ROOT / "playbooks").glob("*.yml"))


def code(pattern: str) -> str:
    """YAML files without their comments."""
    return re.sub(r"^ *#.*", "", "".join(file.read_text() for file in ROOT.glob(pattern)), flags=re.MULTILINE)


def inventory_variables() -> set[str]:
    """What playbooks, defaults of roles and the plan of pairs read and nothing makes; and settings of roles."""
    playbooks, tasks = code("playbooks/*.yml"), code("roles/*/tasks/*.yml")
    defaults = {
        key: value for part in yaml.safe_load_all(code("roles/*/defaults/main.yml")) for key, value in part.items()
    }
    tuples = re.findall(r"(?<!data:)\n +(mesh_\w+):|register: (\w+)", playbooks + tasks)  # data is of set_stats
    made = {name for found in tuples for name in found}
    made |= {name for part in yaml.safe_load_all(code("roles/*/vars/main.yml")) for name in part}
    read = set(re.findall(r"(?<!core\.)\bmesh_\w+\b(?!:)", playbooks + " ".join(map(str, defaults.values()))))
    plan = re.findall(r'"(mesh_\w+)"', (ROOT / "plugins" / "module_utils" / "_pairs.py").read_text())
    roles = tuple(f"{role.name}_" for role in ROOT.glob("roles/*"))
    read |= {name for name in plan if not name.startswith(roles)}  # the others are results of roles
    defaulted = re.findall(r"\b(mesh_\w+) \| default", playbooks)  # of these playbooks have a default of their own
    settings = {
        name
        for name, default in defaults.items()
        if "mesh_" not in str(default) and (name not in made or name in defaulted) and name not in WITHOUT_PLAYBOOKS
    }
    return (read - made - {*defaults} - {"mesh_clusters", "mesh_nodes"}) | settings


def test_the_page_of_the_inventory_has_every_variable_and_no_other():
    page = (ROOT / "docs" / "inventory.md").read_text().partition("\n## Variables")[2].partition("\n## ")[0]
    explained = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    of_roles = [name for row in re.findall(r"^\| [a-z].*", page, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]
    assert sorted(explained + of_roles) == sorted(inventory_variables())


def examples(page: Path) -> list[str]:
    """The YAML of a page."""
    return re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", [page for page in PAGES if examples(page)], ids=lambda page: page.name)
def test_every_example_is_yaml(page):
    for example in examples(page):
        assert all(yaml.safe_load_all(example)), example


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_name_of_the_collection_is_one(page):
    places = ("plugins/modules/*.py", "plugins/filter/*.py", "plugins/inventory/*.py", "playbooks/*.yml", "roles/*")
    known = {file.stem for place in places for file in ROOT.glob(place)} | {"NAME", "cluster"}  # the action group
    assert set(re.findall(r"\bclustermesh\.core\.([A-Za-z_]+)", page.read_text())) <= known


def test_the_execution_environment_of_its_page_can_be_built(tmp_path):
    definition = examples(ROOT / "docs" / "automation-platform.md")[0]
    (tmp_path / "execution-environment.yml").write_text(definition)
    for file in yaml.safe_load(definition)["additional_build_files"]:
        (tmp_path / file["src"]).touch()
    command = [Path(sys.executable).parent / "ansible-builder", "create"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    context = tmp_path / "context" / "_build"
    (collection,) = yaml.safe_load((context / "requirements.yml").read_text())["collections"]
    assert (context / collection["name"]).exists()


def test_the_secrets_of_the_sample_lie_where_ansible_does_not_read_them_as_inventories(tmp_path):
    shutil.copytree(ROOT / "inventory" / "sample", tmp_path / "inventory")
    text = (tmp_path / "inventory" / "hosts.yml").read_text()
    named = re.findall(r'"\{\{ inventory_dir \}\}/(.*)"', text)
    assert len(named) == 3
    for file in (tmp_path / "inventory" / name for name in named):
        file.parent.mkdir(exist_ok=True)
        file.write_text("apiVersion: v1\n")
    command = [Path(sys.executable).parent / "ansible-inventory", "-i", tmp_path / "inventory", "--list"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_readme_lists_every_page():
    text = (ROOT / "README.md").read_text()
    assert not [page.name for page in (ROOT / "docs").glob("*.md") if f"](docs/{page.name})" not in text]
