"""How a running node is doing, in a file that `node status` reads."""

import json
import os
from contextlib import suppress
from pathlib import Path

from hermes_nodes.clock import timestamp
from hermes_nodes.disk import write_atomically


class StateFile:
    """`node status` reads here how a running node is doing."""

    def __init__(self, config_path: Path) -> None:
        self._path = config_path.with_name("status.json")

    def write(self, state: str, detail: str) -> None:
        facts = {"state": state, "detail": detail, "pid": os.getpid(), "since": timestamp()}
        with suppress(OSError):  # a full disk must not end the node
            write_atomically(self._path, json.dumps(facts).encode())

    def read(self) -> dict[str, object] | None:
        """What the node last said; None if none has run, or it is gone."""
        try:
            facts = json.loads(self._path.read_bytes())
            os.kill(facts["pid"], 0)
        except PermissionError:
            pass  # it is there, under another user
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None
        return facts if isinstance(facts, dict) and facts.get("state") != "stopped" else None
