"""Whole files read and written through an allowlist."""

import hashlib
import os
from pathlib import Path
from typing import Any

from hermes_nodes.node.allowlist import Allowlist
from hermes_nodes.node.files import Reader, Writer

#: The user id that owns nothing, by custom.
NOBODY = 65534


def read(allowlist: Allowlist, path: object, **options: Any) -> bytes:
    with Reader.open(allowlist, str(path), **options) as reader:
        content = b"".join(iter(lambda: reader.chunk(4), b""))
        assert reader.bytes_read == len(content)
        assert reader.sha256 == hashlib.sha256(content).hexdigest()
        return content


def write(allowlist: Allowlist, path: object, content: bytes, *args: Any, **options: Any) -> None:
    with Writer.open(allowlist, str(path), *args, **options) as writer:
        for start in range(0, len(content), 5):
            writer.feed(memoryview(content)[start : start + 5])
        done = writer.finish()
    assert done == (len(content), hashlib.sha256(content).hexdigest())


def names(folder: Path) -> set[str]:
    return set(os.listdir(folder))


def lives(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False
