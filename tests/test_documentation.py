"""The documentation says what the program does: commands, settings, routes, exit statuses, links."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer._click import Command, Context
from typer.core import TyperGroup
from typer.main import get_command

from hermes_nodes import config, errors
from hermes_nodes.cli.app import app
from hermes_nodes.gateway.openapi import plain_path
from hermes_nodes.gateway.routes import ROUTES

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [README, ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]
INSTALL = "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/hermes-nodes demo"
TEST = "python3 -m venv .venv && .venv/bin/pip install -e '.[dev]' && .venv/bin/pytest"


def commands(group: Command, name: str = "hermes-nodes") -> Iterator[str]:
    """Every command of `--help`, as it is typed."""
    if not isinstance(group, TyperGroup):
        yield name
        return
    context = Context(group)
    for child in group.list_commands(context):
        command = group.get_command(context, child)
        assert command is not None
        yield from commands(command, f"{name} {child}")


def routes() -> Iterator[str]:
    """Every route of the control API."""
    for route in ROUTES:
        yield f"{route.method} {plain_path(route)}"


FAILURES = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.HermesNodesError)
]


def table_row(page: Path, first: str) -> str:
    """The row of a table whose first cell is that."""
    rows = [line for line in page.read_text().splitlines() if line.startswith(f"| {first} |")]
    assert len(rows) == 1, f"{page.name} has {len(rows)} rows for {first}"
    return rows[0]


@pytest.mark.parametrize("command", [INSTALL, TEST])
def test_the_readme_has_the_command_on_a_line_of_its_own(command: str) -> None:
    assert f"\n    {command}\n" in README.read_text()


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert f"\n{TEST} || exit\n" in (ROOT / ".ci" / "run").read_text()


def test_ci_can_be_run() -> None:
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111 == 0o111


@pytest.mark.parametrize("key", config.KEYS)
def test_every_setting_is_described_with_its_variable(key: str) -> None:
    row = table_row(DOCS / "SETTINGS.md", f"`{key}`")
    assert f"`{config.variable(key)}`" in row


@pytest.mark.parametrize("key", config.KEYS)
def test_every_setting_is_described_with_its_default(key: str) -> None:
    default = config.KEYS[key].default
    shown = table_row(DOCS / "SETTINGS.md", f"`{key}`").split("|")[2].strip()
    if default and "/" in default:
        default = f"$HERMES_HOME/{default}"
    assert shown == (f"`{default}`" if default else "-")


@pytest.mark.parametrize("key", config.LEGACY_KEYS)
def test_every_key_without_effect_is_named(key: str) -> None:
    assert f"`{key}`" in (DOCS / "SETTINGS.md").read_text()


@pytest.mark.parametrize("route", list(routes()))
def test_every_route_is_described(route: str) -> None:
    text = (DOCS / "API.md").read_text()
    assert f"| `{route}` |" in text
    assert f"\n### `{route}`\n" in text


@pytest.mark.parametrize("command", list(commands(get_command(app))))
def test_every_command_is_in_the_readme(command: str) -> None:
    assert table_row(README, f"`{command.removeprefix('hermes-nodes ')}`")


@pytest.mark.parametrize("failure", FAILURES, ids=lambda kind: kind.__name__)
def test_every_failure_is_listed_with_its_exit_status(failure: type[errors.HermesNodesError]) -> None:
    assert f"`{failure.__name__}`" in table_row(DOCS / "EXIT_CODES.md", str(failure.exit_status))


@pytest.mark.parametrize("failure", FAILURES, ids=lambda kind: kind.__name__)
def test_every_status_of_a_failed_call_is_listed(failure: type[errors.HermesNodesError]) -> None:
    assert f"`{failure.call_status}`" in (DOCS / "EXIT_CODES.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_to_a_heading_in_it(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def anchors(page: Path) -> set[str]:
    """The headings of a page, as links name them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
