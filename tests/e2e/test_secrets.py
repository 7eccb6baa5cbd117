"""Tokens and the token key are seen by nobody: in no log, trail, process list or error."""

import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.harness import Home
from tests.support import in_background

TALKATIVE = 'log_level = "debug"\nbackoff_initial = 0.1'
#: Where other users of the machine would look.
SHARED = ("log", "trail", "node trail", "node state", "command output", "process list")


class CommandLines:
    """Everything that `ps` would have shown of the processes of this user meanwhile."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self._between_looks = threading.Event()

    def look(self) -> None:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                self.seen.add(path.read_bytes())
        # Often enough to meet every command, seldom enough to leave them a processor.
        self._between_looks.wait(0.02)


@contextmanager
def everything_once(home: Home) -> Iterator[dict[str, bytes]]:
    """Pair, join, run, use, and fail in every way, all of it as talkative as it gets."""
    said: dict[str, bytes] = {}
    lines, outputs = CommandLines(), bytearray()
    tokens: list[str] = []

    def note(done: subprocess.CompletedProcess[bytes], *, token: bool = False) -> None:
        outputs.extend(done.stderr if token else done.stdout + done.stderr)

    with in_background(lines.look), home.gateway("--log-level", "debug") as gateway:
        for options in ((), ("--force",)):
            done = home.run("pair", "laptop", *options)
            note(done, token=True)
            tokens.append(done.stdout.decode().strip())
        note(home.run("pair", "laptop"))
        note(home.run("list", "--json", "--all"))
        note(home.run("status", "--json"))
        with home.node(gateway, "laptop", token=tokens[1], allow=[home.folder], settings=TALKATIVE) as node:
            note(home.run("exec", "laptop", "env; set; cat /proc/$PPID/environ | tr '\\0' '\\n'; ps auxww"))
            note(home.run("read", "laptop", "/etc/shadow"))
            config = {"HERMES_NODE_CONFIG": str(node.folder / "config.toml")}
            note(home.run("node", "status", "--json", **config))
            note(home.run("node", "join", gateway.url, "--name", "x", stdin=tokens[1], **config))
            home.run("revoke", "laptop")
            with home.rows(action="auth") as rows:
                next(rows)  # its next login fails
        # A token that has been taken back, and one that nobody has given out, both refused.
        stale = home.join(gateway.url, "stale", tokens[0], settings=TALKATIVE)
        with home.rows(action="auth") as rows, home.node_run(stale):
            next(rows)
        for config_name, text in (("broken", f'[node]\ntoken = "{tokens[1]}\nname'), ("wide", "")):
            path = home.folder / f"{config_name}.toml"
            path.write_text(text or (node.folder / "config.toml").read_text())
            path.chmod(0o644 if config_name == "wide" else 0o600)
            note(home.run("node", "run", HERMES_NODE_CONFIG=str(path)))
        said["log"] = gateway.log.encode() + node.log.encode()
        said["log"] += (home.folder / "node-stale" / "run.log").read_bytes()
        said["node trail"] = (node.folder / "audit.log").read_bytes()
        said["node state"] = b"".join(path.read_bytes() for path in home.folder.rglob("status.json"))
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(5) == 0
    note(home.run("serve", "--port", "0", HERMES_NODES_TOKEN_KEY="A" * 43 + "="))
    said["trail"] = home.settings.audit_log_path.read_bytes()
    said["command output"] = bytes(outputs)
    said["process list"] = b"\n".join(lines.seen)
    said["tokens"] = "\n".join(tokens).encode()
    said["key"] = (home.path / ".env").read_text().partition("=")[2].strip().strip("'\"").encode()
    yield said


def test_no_secret_appears(tmp_path: Path) -> None:
    # One test, as another process would have to do all of it again.
    with everything_once(Home(tmp_path)) as said:
        pass
    tokens = said["tokens"].split(b"\n")
    assert len(tokens) == 2
    assert len(said["key"]) == 44
    # Nor its greater part, as a log might cut it.
    secrets = [part for secret in (*tokens, said["key"]) for part in (secret, secret[:20])]
    assert [where for where in SHARED if any(secret in said[where] for secret in secrets)] == []
    # There must be something to look at, and it is what happened.
    assert [where for where in SHARED if not said[where]] == []
    assert b"refused" in said["log"]
    assert b"wrong proof" in said["trail"]
    assert b"node\0run" in said["process list"]
    assert b"HERMES_NODES_CALL" in said["command output"]
