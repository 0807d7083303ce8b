"""The documents say what the code does, as far as a program can tell."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from clustermeshd.agent.metrics import Metrics as AgentMetrics
from clustermeshd.controller.metrics import Metrics as ControllerMetrics
from clustermeshd.kube import errors
from clustermeshd.model.errors import Retriable

from tests import reference

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


def test_the_readme_lists_every_page():
    text = (ROOT / "README.md").read_text()
    assert not [page.name for page in (ROOT / "docs").glob("*.md") if f"](docs/{page.name})" not in text]
