"""`key rotate` as a user types it, with a gateway and without, and broken off by a kill."""

import os
import random
import re
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from hermes_nodes.errors import BadKey
from hermes_nodes.tokens import TokenStore
from tests.harness import Home
from tests.network import LOOPBACK, Remote
from tests.support import PATIENCE

VARIABLE = "HERMES_NODES_TOKEN_KEY"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def keys(home: Home) -> dict[str, str]:
    return dict(line.split("=", 1) for line in (home.path / ".env").read_text().splitlines())


def opens(home: Home, key: str) -> bool:
    try:
        TokenStore.read_only(home.settings.token_store_path, [key]).close()
    except BadKey:
        return False
    return True


def test_with_a_gateway_nodes_and_operators_stay_and_so_they_do_after_a_restart(
    home: Home,
) -> None:
    with home.gateway(**LOOPBACK) as gateway:
        old = keys(home)[VARIABLE]
        token = home.ok("operator", "add", "ci", "--allow", "list,exec").strip()
        port = gateway.control_url.rpartition(":")[2]
        with home.node(gateway, "laptop") as node:
            done = home.run("key", "rotate")
            assert done.returncode == 0
            assert home.ok("exec", "laptop", "echo on") == "on\n"
            assert home.node_view("laptop")["session_id"] == node.session_id
            new = keys(home)[VARIABLE]
    assert keys(home) == {VARIABLE: new}
    assert (opens(home, old), opens(home, new)) == (False, True)
    assert new not in done.stderr.decode() + done.stdout.decode() + gateway.log
    again = {"HERMES_NODES_CONTROL_LISTEN": f"127.0.0.1:{port}"}
    with home.gateway("--port", str(gateway.port), **again) as gateway:
        remote = Remote(home, gateway, token)
        with home.rows(action="connect") as rows, home.node_run(node.folder):
            next(rows)
            assert remote.ok("exec", "laptop", "echo on") == "on\n"
    assert home.run("audit", "verify").returncode == 0


def test_without_a_gateway_the_rows_still_verify(home: Home) -> None:
    home.pair("laptop")
    old = keys(home)[VARIABLE]
    done = home.run("key", "rotate")
    assert done.returncode == 0
    assert re.search(rb"new key is HERMES_NODES_TOKEN_KEY in .*\.env", done.stderr)
    assert done.stdout == b""
    assert not opens(home, old)
    home.pair("desktop")
    assert home.run("audit", "verify").returncode == 0


def test_an_exported_old_key_is_refused_with_what_to_do(home: Home) -> None:
    home.pair("laptop")
    old = keys(home)[VARIABLE]
    done = home.run("key", "rotate", **{VARIABLE: old})
    assert b"exported with the old key: before the next `serve`" in done.stderr
    for command in (["pair", "desktop"], ["serve", "--port", "0"]):
        refused = home.run(*command, **{VARIABLE: old})
        assert refused.returncode == 77
        assert b"error: the exported HERMES_NODES_TOKEN_KEY is not the key" in refused.stderr
        assert b"unset HERMES_NODES_TOKEN_KEY" in refused.stderr
    home.pair("desktop")


def test_where_there_is_no_store_there_is_nothing_to_rotate(home: Home) -> None:
    done = home.run("key", "rotate")
    assert done.returncode == 77
    assert b"there is no token store yet" in done.stderr
    assert not home.path.exists() or not (home.path / ".env").exists()


def test_rotations_that_are_killed_leave_a_store_that_opens(home: Home) -> None:
    tokens = {home.pair(f"node-{number}") for number in range(3)}
    took = time.monotonic()
    home.ok("key", "rotate")
    took = time.monotonic() - took
    for part in (0.5, 0.7, 0.85):
        with home.start("key", "rotate") as rotating:
            # No event tells where in its work it is: a kill may come anywhere.
            with suppress(subprocess.TimeoutExpired):
                rotating.process.wait(took * part + random.uniform(0, took / 10))
            rotating.process.send_signal(signal.SIGKILL)
            rotating.process.wait(PATIENCE)
        home.ok("label", "node-0", f"part={int(part * 10)}")
        assert set(keys(home)) == {VARIABLE}
        with TokenStore.open(home.settings.token_store_path, [keys(home)[VARIABLE]]) as store:
            held = {secret.value for one in store.pairings() for secret in store.secrets(one.id)}
        assert held == tokens
    assert home.run("audit", "verify").returncode == 0


def test_a_home_where_no_key_can_be_saved_stays_as_it_is(home: Home) -> None:
    home.pair("laptop")
    old = keys(home)[VARIABLE]
    elsewhere = home.folder / "no" / "dotenv"
    (home.path / ".env").rename(home.folder / "kept")
    (home.path / ".env").symlink_to(elsewhere)
    (home.folder / "no").write_text("")  # not a folder: nothing can be written below it
    done = home.run("key", "rotate", **{VARIABLE: old})
    assert done.returncode != 0
    assert b"error: " in done.stderr
    assert b"Traceback" not in done.stderr
    (home.path / ".env").unlink()
    os.rename(home.folder / "kept", home.path / ".env")
    assert opens(home, old)
    assert home.trail(action="key") == []
