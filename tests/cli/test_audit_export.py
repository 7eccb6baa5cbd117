"""`audit export`: text to a spreadsheet, exact to a program, and over the network what it is here."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import GatewayProcess, Home
from tests.network import LOOPBACK, Remote, operator

#: As a row's text, and as its cell.
CELLS = {
    "=1+1": "'=1+1",
    '=HYPERLINK("http://x","y")': '\'=HYPERLINK("http://x","y")',
    "+1": "'+1",
    "-1": "'-1",
    "@SUM(A1)": "'@SUM(A1)",
    "\t=1": "'\t=1",
    "\r=1": "'\r=1",
    "\n=1": "'\n=1",
    "\uff1d1": "'\uff1d1",
    "'=1": "'=1",
    " =1": " =1",
    "a=1": "a=1",
    "a\r=1": "a\r=1",
    'a\n"=1': 'a\n"=1',
    "": "",
}


def write_trail(home: Home, rows: list[dict[str, object]]) -> None:
    path = home.settings.audit_log_path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def cells(home: Home) -> list[dict[str, str]]:
    text = home.run("audit", "export", "--format", "csv").stdout.decode()
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_what_would_be_a_formula_is_text_in_a_table_and_exact_as_json(empty_home: Home) -> None:
    texts: list[dict[str, object]] = [{"command": text, "node": text, "exit_code": -1} for text in CELLS]
    write_trail(empty_home, texts)
    found = cells(empty_home)
    assert [row["command"] for row in found] == list(CELLS.values())
    assert [row["node"] for row in found] == list(CELLS.values())
    assert {row["exit_code"] for row in found} == {"-1"}, "a number is none"
    lines = empty_home.run("audit", "export").stdout.decode().splitlines()
    assert [json.loads(line)["command"] for line in lines] == list(CELLS)


def test_without_its_key_a_warning_says_that_rows_are_not_told_apart(empty_home: Home) -> None:
    write_trail(empty_home, [{"command": "x"}])
    done = empty_home.run("audit", "export")
    assert json.loads(done.stdout)["chained"] is None
    assert done.stderr.count(b"warning: ") == 1
    assert b"`chained` is null" in done.stderr


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Home, Remote]]:
    home = Home(tmp_path_factory.mktemp("exported"))
    with home.gateway(**LOOPBACK) as gateway, operator(home, gateway, "auditor", "--allow", "audit") as one:
        home.pair("web")
        home.pair("db")
        yield home, one


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--format", "csv"],
        ["--node", "web"],
        ["--action", "pair", "--since", "1h"],
        ["--status", "denied"],
    ],
    ids=" ".join,
)
def test_the_network_gives_what_the_files_do(remote: tuple[Home, Remote], options: list[str]) -> None:
    home, one = remote
    assert one.ok("audit", "export", *options) == home.ok("audit", "export", *options)


def test_an_option_names_the_gateway_as_well(remote: tuple[Home, Remote]) -> None:
    home, one = remote
    url = one.environ["HERMES_NODES_GATEWAY"]
    environ = {**one.environ, "HERMES_NODES_GATEWAY": ""}
    there = home.ok("--gateway", url, "audit", "export", **environ)
    assert '"pair"' in there
    assert there == home.ok("audit", "export")


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_an_operator_who_may_not_read_the_trail_gets_none_of_it(
    remote: tuple[Home, Remote], tmp_path: Path, form: str
) -> None:
    home, one = remote
    gateway_url = one.environ["HERMES_NODES_GATEWAY"]
    token = home.ok("operator", "add", "lister", "--allow", "list").strip()
    done = home.run(
        "--gateway",
        gateway_url,
        "audit",
        "export",
        "--format",
        form,
        HERMES_NODES_OPERATOR_TOKEN=token,
        HERMES_HOME=str(tmp_path),
    )
    assert (done.returncode, done.stdout) == (77, b"")
    home.ok("operator", "remove", "lister")


def test_verifying_a_gateway_that_is_named_is_refused(home: Home, gateway: GatewayProcess) -> None:
    named = home.run("--gateway", str(gateway.socket), "audit", "verify", "--json")
    exported = home.run("audit", "verify", HERMES_NODES_GATEWAY=str(gateway.socket))
    for done in (named, exported):
        assert (done.returncode, done.stdout) == (2, b"")
        assert b"--store" in done.stderr
    assert b"unset HERMES_NODES_GATEWAY" in exported.stderr
