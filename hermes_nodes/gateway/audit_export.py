"""The whole trail as an answer: each row a line, and a last line without which it is not whole."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

from aiohttp import web

from hermes_nodes.audit import Filter, Trail
from hermes_nodes.audit.export import Export
from hermes_nodes.errors import NotAllowed, Unavailable

#: Bytes that are read before they are sent: of a trail of any size no more is in memory at once.
PIECE = 256 * 1024


async def send_export(
    request: web.Request, trail: Export, check: Callable[[], Filter]
) -> web.StreamResponse:
    """Every row that matches, old to new; ``check`` says what does, or raises where it may not go on."""
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    lines = _lines(trail)
    async with ended_in(response, trail):
        with trail:
            piece = await asyncio.to_thread(_piece, lines)
            await response.prepare(request)
            while piece:
                await response.write(piece)
                trail.match = check()
                piece = await asyncio.to_thread(_piece, lines)
    return response


@asynccontextmanager
async def ended_in(response: web.StreamResponse, trail: Trail) -> AsyncIterator[None]:
    """What ends the lines of a trail early is the last of them, once there are any."""
    try:
        yield
    except ConnectionError:
        raise  # the caller's
    except (OSError, NotAllowed) as error:
        told = error if isinstance(error, NotAllowed) else _unreadable(trail, error)
        if not response.prepared:
            raise told from error
        await response.write(_line({"error": told.to_wire()}))


def _unreadable(trail: Trail, error: OSError) -> Unavailable:
    return Unavailable(f"the trail {trail.path} can't be read: {error.strerror}")


def _lines(trail: Export) -> Iterator[bytes]:
    rows = 0
    for row in trail.read():
        rows += 1
        # Beside the row, and not in it: whatever a line of the trail says, it can't pass for another.
        chained = row.pop("chained")
        yield _line({"chained": chained, "row": row})
    yield _line({"end": {"rows": rows, "unreadable": trail.unreadable}})


def _piece(lines: Iterator[bytes]) -> bytes:
    piece = bytearray()
    for line in lines:
        piece += line
        if len(piece) >= PIECE:
            break
    return bytes(piece)


def _line(value: dict[str, object]) -> bytes:
    return json.dumps(value).encode() + b"\n"
