"""What the guard makes its node's shell print, for those who stand in for one."""

import base64

from hermes_nodes.protocol.guarded import line_tag

MARKER = "hermes0123456789abcdef01234567"
TAG = line_tag(MARKER).encode()
#: Characters of base64 in a line.
_WIDTH = 1000


def a_line(content: bytes | str, marker: str = MARKER) -> bytes:
    """A line with these bytes, or with this in place of their base64."""
    encoded = base64.b64encode(content) if isinstance(content, bytes) else content.encode("latin-1")
    return line_tag(marker).encode() + encoded + b"\n"


def in_lines(data: bytes, marker: str = MARKER) -> list[bytes]:
    size = _WIDTH // 4 * 3
    return [a_line(data[at : at + size], marker) for at in range(0, len(data), size)]


def writes(
    stdout: bytes,
    stderr: bytes,
    exit_code: int = 0,
    *,
    marker: str = MARKER,
    is_late: bool = False,
    is_cut: bool = False,
) -> list[bytes]:
    """What a guard prints, in the pieces in which it does."""
    out = in_lines(stdout, marker)
    err = in_lines(stderr, marker)
    said = notes(exit_code, out)
    size = len(said) + sum(map(len, err)) + (0 if err else 1)
    return [
        b"bash-5# \n",
        f"{marker}out\n".encode(),
        *out,
        *([b";"] if is_late else []),
        b"\n",
        f"{marker}err\n".encode(),
        said,
        *err,
        *([] if err else [b"\n"]),
        b"\n",
        # What it came to without its last newline, and what there was room for.
        f"{marker}len {size + 99 if is_cut else size - 1} {size if is_cut else 9_990_000}\n".encode(),
        f"{marker}end {exit_code}\n".encode(),
        b"\n",
    ]


def notes(exit_code: int, out: list[bytes]) -> bytes:
    """What is said between the lines of stderr: how the command ended, and the size of its stdout."""
    return f":{exit_code}:({sum(map(len, out))})".encode()
