"""How a running node is doing, in a file that `node status` reads."""

import json
import os
import uuid
from contextlib import suppress
from pathlib import Path

from hermes_nodes.protocol.messages import timestamp


class StateFile:
    """`node status` reads here how a running node is doing."""

    def __init__(self, config_path: Path) -> None:
        self._path = config_path.with_name("status.json")

    def write(self, state: str, detail: str) -> None:
        facts = {"state": state, "detail": detail, "pid": os.getpid(), "since": timestamp()}
        temporary = self._path.with_name(f".status-{uuid.uuid4().hex}")
        with suppress(OSError):  # a full disk must not end the node
            temporary.write_text(json.dumps(facts))
            temporary.replace(self._path)

    def read(self) -> dict[str, object] | None:
        """What the node last said; None if none has run, or it is gone."""
        try:
            facts = json.loads(self._path.read_bytes())
            os.kill(facts["pid"], 0)
        except PermissionError:
            pass  # it is there, under another user
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return facts if isinstance(facts, dict) and facts.get("state") != "stopped" else None
