"""`demo`: the whole product on this machine alone, for real, in a throwaway home."""

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from hermes_nodes.cli.options import command
from hermes_nodes.cli.output import print_data, say
from hermes_nodes.client import Client
from hermes_nodes.errors import CallFailed, HermesNodesError
from hermes_nodes.node.config import config_path

#: Seconds for each thing that is waited for; here they take a tenth of one.
_PATIENCE = 15.0
_LOOK_EVERY = 0.02
# -P: the program that was installed, not what happens to lie in this directory.
_PROGRAM = (sys.executable, "-P", "-m", "hermes_nodes")
_NODE = "demo-node"


def demo() -> None:
    """Show the main job on this machine alone, in a throwaway home. Nothing is left behind."""
    # A short path: a Unix socket's may have 103 bytes.
    with tempfile.TemporaryDirectory(prefix="hn-demo-", dir=_short_folder()) as folder:
        _show(Stage(Path(folder)))
    print_data("")
    say("that was all of it, and nothing is left behind. README.md says how to go on.")


def _short_folder() -> str | None:
    folder = tempfile.gettempdir()
    return None if len(folder) < 50 else "/tmp"  # noqa: PLR2004, S108 - room for the rest of the path


def _show(stage: "Stage") -> None:
    with stage.background("serve", "--port", "0", "--ready-file", str(stage.ready_file), log="gateway"):
        stage.wait_for("the gateway", stage.ready_file.exists)
        stage.title("A machine is paired; its token is shown once")
        token = stage.run("pair", _NODE, shown=False).strip()
        hidden = f"{token[:8]}…"
        print_data(f"{hidden} (47 characters)")
        stage.title("On that machine: join with the token, and run the node")
        url = str(stage.client().status()["url"])
        allow = ("--allow", str(stage.files))
        stage.run("node", "join", url, "--name", _NODE, *allow, stdin=token, stdin_shown=hidden)
        with stage.background("node", "run", log="node") as node:
            stage.wait_for("the node", lambda: stage.state() == "connected")
            _use(stage)
            stage.wait_for("the node's refusal", lambda: stage.node_status() == "waiting")
            stage.run("node", "status")
            stage.check(node.poll() is None, "the node goes on asking, and is refused each time")


def _use(stage: "Stage") -> None:
    stage.title("From now on it can be reached")
    stage.run("list")
    stage.run("exec", _NODE, 'echo "hello from $(uname -s)"; exit 3', expected=3)
    stage.title("Its files, where its own settings allow it")
    note = str(stage.files / "note.txt")
    stage.run("write", _NODE, note, stdin="written through the gateway\n")
    stage.run("read", _NODE, note)
    stage.run("read", _NODE, "/etc/passwd", expected=77)
    stage.title("Everything was written down")
    stage.run("audit", "tail")
    stage.title("Revoked: out at once, and never in again")
    stage.run("revoke", _NODE)
    stage.run("list", "--all")
    stage.run("exec", _NODE, "true", expected=66)


class Stage:
    """The throwaway home and what runs on it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.files = folder / "files"
        self.files.mkdir()
        self.ready_file = folder / "ready.json"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HERMES_")}
        home = {
            "HERMES_HOME": str(folder / "h"),
            "HERMES_NODE_CONFIG": str(folder / "node" / "config.toml"),
        }
        self._environ: Mapping[str, str] = {**kept, **home}

    def client(self) -> Client:
        return Client(environ=self._environ)

    def title(self, sentence: str) -> None:
        print_data(f"\n# {sentence}")

    def run(
        self, *arguments: str, stdin: str = "", stdin_shown: str = "", expected: int = 0, shown: bool = True
    ) -> str:
        """Run a command as a user would, show it with what it prints, and check how it ends."""
        given = f"echo {stdin_shown or shlex.quote(stdin.rstrip())} | " if stdin else ""
        print_data(f"$ {given}hermes-nodes {shlex.join(arguments)}")
        sys.stdout.flush()
        try:
            done = subprocess.run(
                [*_PROGRAM, *arguments],
                env=self._environ,
                input=stdin,
                stdout=None if shown else subprocess.PIPE,
                text=True,
                timeout=_PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise self._failed(f"{_PATIENCE:g} s were not enough for `{arguments[0]}`") from error
        if expected:
            print_data(f"[exit code {done.returncode}]")
        self.check(done.returncode == expected, f"exit code {expected}, not {done.returncode}")
        return done.stdout or ""

    @contextmanager
    def background(self, *arguments: str, log: str) -> Iterator[subprocess.Popen[bytes]]:
        """A process that runs while the block does, and is stopped as an operator would stop it."""
        with (self._folder / f"{log}.log").open("wb") as output:
            process = subprocess.Popen([*_PROGRAM, *arguments], env=self._environ, stderr=output)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def wait_for(self, what: str, happened: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not happened():
            if time.monotonic() > deadline:
                raise self._failed(f"waited in vain for {what}")
            time.sleep(_LOOK_EVERY)

    def check(self, is_so: bool, expectation: str) -> None:
        if not is_so:
            raise self._failed(f"the demo expected: {expectation}")

    def _failed(self, what: str) -> CallFailed:
        logs = "\n".join(path.read_text() for path in self._folder.glob("*.log"))
        return CallFailed(what, f"gateway and node say:\n{logs[-4000:]}")

    def state(self) -> str:
        try:
            return str(self.client().nodes(_NODE)[0]["state"])
        except HermesNodesError:
            return "unknown"

    def node_status(self) -> str:
        from hermes_nodes.node.state import StateFile  # noqa: PLC0415 - of no use to the other steps

        facts = StateFile(config_path(self._environ)).read() or {}
        return str(facts.get("state"))


APPS = {"demo": command(demo)}
