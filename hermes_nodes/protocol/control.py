"""The frames of a call between our client and the gateway, over one upgraded HTTP connection.

A call is a POST with `Upgrade: hermes-nodes` whose body says what to do; the gateway answers 101, and from
there on both sides send frames: ``length (4 bytes, big-endian) | kind (1) | channel (1) | payload (length
bytes)``. The gateway ends with ANSWER. Channels are those of the node protocol: 0 towards the node, 1 and 2
back. Data travels raw, so nothing is encoded twice on its way. Standard library only: an operator waits for
this import at every command.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

#: The `Upgrade` header of a call.
UPGRADE = "hermes-nodes"

DATA = 1  # bytes of a channel
END = 2  # the end of a channel
WINDOW = 3  # 4 bytes, big-endian: how many more bytes the other side may send on a channel
RESIZE = 4  # twice 4 bytes, big-endian: columns and rows of a terminal's new size
CANCEL = 5  # end the call; its answer still comes
ALIVE = 6  # nothing: shows that the other side is there
NOTE = 7  # JSON: something worth telling the operator meanwhile
ANSWER = 8  # JSON: the final answer

#: Most bytes of one frame. Data comes in records of 126 KiB.
MAX_FRAME = 256 * 1024

_HEADER = struct.Struct(">IBB")
_COUNT = struct.Struct(">I")
_SIZE = struct.Struct(">II")


class ControlFrame(NamedTuple):
    kind: int
    channel: int
    payload: memoryview


class FrameTooLargeError(ValueError):
    """A frame longer than MAX_FRAME; the connection can't go on."""


def header(kind: int, size: int = 0, channel: int = 0) -> bytes:
    """What goes before ``size`` bytes of payload."""
    return _HEADER.pack(size, kind, channel)


def frame(kind: int, payload: bytes = b"", channel: int = 0) -> bytes:
    return _HEADER.pack(len(payload), kind, channel) + payload


def window(channel: int, size: int) -> bytes:
    return frame(WINDOW, _COUNT.pack(size), channel)


def window_size(payload: memoryview) -> int:
    """The bytes that a WINDOW grants; ValueError if it is not one."""
    if len(payload) != _COUNT.size:
        raise ValueError("a window of a wrong length")
    size: int = _COUNT.unpack(payload)[0]
    return size


def resize(cols: int, rows: int) -> bytes:
    return frame(RESIZE, _SIZE.pack(cols, rows))


def size(payload: memoryview) -> tuple[int, int]:
    """The columns and rows that a RESIZE names; ValueError if it is not one."""
    if len(payload) != _SIZE.size:
        raise ValueError("a size of a wrong length")
    cols, rows = _SIZE.unpack(payload)
    return cols, rows


class FrameReader:
    """Cuts a byte stream into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[ControlFrame]:
        """The frames that are whole now; their payloads stay valid. Raises FrameTooLargeError."""
        if self._buffer:
            self._buffer += data
            data = bytes(self._buffer)
            self._buffer.clear()
        view = memoryview(data)
        start = 0
        while len(view) - start >= _HEADER.size:
            size, kind, channel = _HEADER.unpack_from(view, start)
            if size > MAX_FRAME:
                raise FrameTooLargeError
            end = start + _HEADER.size + size
            if end > len(view):
                break
            yield ControlFrame(kind, channel, view[start + _HEADER.size : end])
            start = end
        self._buffer += view[start:]
