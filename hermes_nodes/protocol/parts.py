"""What is left of a broken `write` on its node: a file beside the target, which tells what it holds.

Whoever resumes the transfer finds it by its name, and reads its end to learn how much came and what that
hashes to, without having it sent back. Standard library only: the client needs this, too.
"""

import hashlib
import os
import re
from typing import NamedTuple

#: Bytes of the longest name that file systems in use take (NAME_MAX of Linux and macOS).
_MAX_NAME = 255
_SUFFIX = ".hermes-part"
_TRAILER = re.compile(rb"\nhermes-part/1 ([0-9a-f]{64}) ([0-9]{20})\n")
#: Bytes at the end of a part that are not content.
TRAILER_BYTES = 101


class Held(NamedTuple):
    """The content of a part: its size in bytes and its SHA-256 in hex."""

    size_bytes: int
    sha256: str


def part_name(target: str, suffix: str = _SUFFIX) -> str:
    """The name of the part beside a target of that name."""
    name = f".{target}{suffix}"
    if len(os.fsencode(name)) <= _MAX_NAME:
        return name
    return f".{hashlib.sha256(os.fsencode(target)).hexdigest()}{suffix}"


def trailer(held: Held) -> bytes:
    """What is put behind the content."""
    return f"\nhermes-part/1 {held.sha256} {held.size_bytes:020}\n".encode()


def held_by(end: bytes, size_bytes: int) -> Held | None:
    """What a part of that size holds, by its last bytes; None if it is no whole part."""
    found = _TRAILER.fullmatch(end)
    if found is None or int(found[2]) != size_bytes - TRAILER_BYTES:
        return None
    return Held(int(found[2]), found[1].decode())
