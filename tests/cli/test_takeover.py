"""A home of the older system under our commands: taken over by the first, and only once."""

import json
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from tests import older_home as older
from tests.cli import kills
from tests.harness import Home, scripted_node
from tests.support import mode

OTHER_KEY = Fernet.generate_key().decode()
TOOK_OVER = b"took over 6 pairings (3 revoked) from "
NAMES = ["build box", "nas", "web-1"]
#: Each makes the first change to a home of the older system.
COMMANDS = [["list"], ["list", "--json"], ["pair", "web-2"], ["revoke", "web-1"]]


@pytest.fixture
def older_home(empty_home: Home) -> Home:
    older.leave(empty_home.path)
    return empty_home


def listed(home: Home, *options: str) -> list[str]:
    return [str(view["name"]) for view in json.loads(home.ok("list", "--json", *options))]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_first_command_takes_over_and_says_so(older_home: Home, command: list[str]) -> None:
    done = older_home.run(*command)
    assert done.returncode == 0
    assert done.stderr.count(TOOK_OVER) == 1
    assert TOOK_OVER not in done.stdout
    again = older_home.run("list")
    assert TOOK_OVER not in again.stderr
    assert older_home.path.joinpath(".env").read_bytes() == older.ENV.encode()


def test_the_list_says_what_lacks_encryption_and_what_brings_it(older_home: Home) -> None:
    done = older_home.run("list")
    assert [line.split("\t")[:2] for line in done.stdout.decode().splitlines()] == [
        ["build box", "disconnected"],
        ["nas", "never_seen"],
        ["web-1", "disconnected"],
    ]
    stderr = done.stderr.decode()
    assert (
        stderr.count("re-pairing brings that (`hermes-nodes pair --force NAME`): build box, nas, web-1\n")
        == 1
    )


def test_the_note_names_those_that_are_listed_and_goes_with_the_last(older_home: Home) -> None:
    assert b"NAME`): nas\n" in older_home.run("list", "nas").stderr
    for name in NAMES:
        assert b"re-pairing" in older_home.run("list").stderr
        older_home.pair(name, "--force")
    assert b"re-pairing" not in older_home.run("list").stderr
    assert b"re-pairing" not in older_home.run("list", "--all").stderr


def test_a_long_list_is_not_named_in_full(empty_home: Home) -> None:
    records = [older.record(f"node-{number:02}") for number in range(12)]
    older.leave(empty_home.path, records=records)
    assert b"node-09 and 2 more\n" in empty_home.run("list").stderr


def test_scripts_see_a_key_and_no_talk_on_stdout(older_home: Home) -> None:
    views = json.loads(older_home.ok("list", "--json", "--all"))
    assert {(view["name"], view["hash_only"]) for view in views if view["state"] != "revoked"} == {
        (name, True) for name in NAMES
    }
    assert not any(view["hash_only"] for view in views if view["state"] == "revoked")
    assert [view["name"] for view in views if view["state"] == "revoked"] == ["gone", "web-1", "web-1"]
    older_home.pair("fresh")
    assert older_home.node_view("fresh")["hash_only"] is False


@pytest.mark.parametrize("command", [*COMMANDS, ["serve", "--port", "0"]], ids=" ".join)
def test_a_wrong_key_stops_every_command(older_home: Home, command: list[str]) -> None:
    done = older_home.run(*command, HERMES_NODES_TOKEN_KEY=OTHER_KEY)
    assert (done.returncode, done.stdout) == (77, b"")
    error, hint = done.stderr.decode().splitlines()[-2:]
    assert "nodes/tokens.json was made with another key" in error
    assert hint.startswith("hermes-nodes: hint: export the key it was made with")
    assert b"Traceback" not in done.stderr
    # The key in .env is the right one.
    assert listed(older_home) == NAMES


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_exported_key_goes_before_the_one_in_env(older_home: Home, command: list[str]) -> None:
    env = older_home.path / ".env"
    env.write_bytes(content := older.ENV.replace(older.KEY, OTHER_KEY).encode())
    done = older_home.run(*command, HERMES_NODES_TOKEN_KEY=older.KEY)
    assert (done.returncode, TOOK_OVER in done.stderr) == (0, True)
    assert env.read_bytes() == content


def test_a_gateway_takes_the_exported_key_too(older_home: Home) -> None:
    (older_home.path / ".env").write_text(older.ENV.replace(older.KEY, OTHER_KEY))
    with older_home.gateway(HERMES_NODES_TOKEN_KEY=older.KEY):
        assert listed(older_home) == NAMES


@pytest.mark.parametrize("command", [*COMMANDS, ["serve", "--port", "0"]], ids=" ".join)
def test_without_a_key_none_is_made_for_it(older_home: Home, command: list[str]) -> None:
    env = older_home.path / ".env"
    env.write_text("MAIL=1\n")
    done = older_home.run(*command)
    assert (done.returncode, done.stdout) == (77, b"")
    assert b"there is no key for the token store" in done.stderr
    assert env.read_text() == "MAIL=1\n"
    assert not (older_home.path / "nodes" / "tokens.db").exists()


@pytest.mark.parametrize("command", [*COMMANDS, ["serve", "--port", "0"]], ids=" ".join)
def test_a_damaged_file_stops_every_command(older_home: Home, command: list[str]) -> None:
    path = older_home.path / "nodes" / "tokens.json"
    path.write_bytes(path.read_bytes()[:-100])
    done = older_home.run(*command)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"nodes/tokens.json is damaged: it is cut off" in done.stderr
    assert b"Traceback" not in done.stderr
    assert not (older_home.path / "nodes" / "tokens.db").exists()


def test_two_files_stop_every_command_until_one_is_named(older_home: Home) -> None:
    other = older_home.path / "tokens.json"
    other.write_bytes(older.sealed([older.record("web-9")]))
    done = older_home.run("list")
    assert (done.returncode, done.stdout) == (78, b"")
    assert b"set token_store_path" in done.stderr
    with (older_home.path / "hermes-node.yaml").open("a") as settings:
        settings.write("token_store_path: tokens.json\n")
    assert listed(older_home) == ["web-9"]
    assert (older_home.path / "tokens.db").exists()


@pytest.mark.parametrize("store", ["tokens.json", "elsewhere/old.json", "nodes/tokens"])
def test_it_may_lie_elsewhere(empty_home: Home, store: str) -> None:
    path = older.leave(empty_home.path, store=store)
    setting = "" if store == "tokens.json" else f"token_store_path: {path}\n"
    with (empty_home.path / "hermes-node.yaml").open("a") as settings:
        settings.write(setting)
    assert listed(empty_home) == NAMES
    path.unlink()
    assert listed(empty_home) == NAMES


def test_completing_a_name_takes_nothing_over(older_home: Home) -> None:
    words = {"COMP_WORDS": "hermes-nodes exec w", "COMP_CWORD": "2"}
    done = older_home.run(_HERMES_NODES_COMPLETE="complete_bash", **words)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, b"", b"")
    assert not (older_home.path / "nodes" / "tokens.db").exists()
    older_home.ok("list")
    done = older_home.run(_HERMES_NODES_COMPLETE="complete_bash", **words)
    assert done.stdout.split() == [b"web-1"]


def test_of_many_commands_at_once_one_takes_over(older_home: Home) -> None:
    commands = [older_home.start("list", "--json") for _ in range(4)]
    commands += [older_home.start("pair", f"new-{number}") for number in range(4)]
    ends = [command.end() for command in commands]
    assert [(code, stderr) for code, _, stderr in ends if code] == []
    assert sum(TOOK_OVER in stderr for _, _, stderr in ends) == 1
    for _, stdout, _ in ends[:4]:
        assert set(NAMES) <= {view["name"] for view in json.loads(stdout)}
    assert listed(older_home) == [NAMES[0], NAMES[1], *(f"new-{number}" for number in range(4)), NAMES[2]]
    assert len(older_home.trail(action="pair")) == 3 + 4


def test_a_takeover_killed_at_any_instant_is_done_by_the_next_and_doubles_nothing(tmp_path: Path) -> None:
    kills.takeovers(tmp_path, 4)


# -- the trail goes on --


def test_old_rows_stay_readable_before_and_after_our_own(older_home: Home) -> None:
    def table() -> list[list[str]]:
        return [line.split("\t") for line in older_home.ok("audit", "tail", "-n", "100").splitlines()]

    old = table()
    assert [row[:4] for row in old] == [
        [older.CREATED, "exec", "ok", "web-1"],
        [older.CREATED, "exec", "ok", "web-1"],
        [older.USED, "token_created", "success", "-"],
        ["-", "-", "-", "-"],
    ]
    assert old[1][7] == "uptime"
    older_home.pair("fresh")
    assert table()[:4] == old
    assert [row[1] for row in table()[4:]] == ["pair"] * 4
    rows = [json.loads(line) for line in older_home.ok("audit", "tail", "-n", "100", "--json").splitlines()]
    assert rows[:4] == older.AUDIT_ROWS
    assert older_home.ok("audit", "tail", "--action", "exec", "--status", "ok").count("web-1") == 2
    assert mode(older_home.path / "logs" / "nodes-audit.log") == 0o600


def test_old_rows_stay_readable_over_a_rotation(older_home: Home) -> None:
    for number in range(4):
        older_home.ok("pair", f"new-{number}", HERMES_NODES_AUDIT_MAX_BYTES="1K")
    assert len(list((older_home.path / "logs").iterdir())) > 1
    rows = [json.loads(line) for line in older_home.ok("audit", "tail", "-n", "100", "--json").splitlines()]
    assert rows[:4] == older.AUDIT_ROWS
    assert [row["node"] for row in rows[4:]] == [
        "web-1",
        "build box",
        "nas",
        "new-0",
        "new-1",
        "new-2",
        "new-3",
    ]


async def test_a_node_whose_software_offers_no_encryption_goes_on_being_named(older_home: Home) -> None:
    with older_home.gateway() as gateway:
        token = older_home.pair("web-1", "--force")
        async with scripted_node(gateway.url) as node:
            await node.send_text('{"type": "hello", "protocol_version": "0.1.0", "node_name": "web-1"}')
            await node.receive_json()
            await node.send_text(f'{{"type": "auth", "node_name": "web-1", "token": "{token}"}}')
            assert (await node.receive_json())["type"] == "auth_ok"
            said = older_home.run("list", "web-1").stderr
    assert b"as their software does not offer it: web-1\n" in said


def test_a_file_that_the_settings_name_and_that_is_missing_is_said(empty_home: Home) -> None:
    path = empty_home.folder / "tokns.json"
    done = empty_home.run("pair", "laptop", HERMES_NODES_TOKEN_STORE_PATH=str(path))
    assert done.returncode == 0
    assert f"warning: {path} is not there: this starts with an empty store\n".encode() in done.stderr
