"""What ends a call early, and waiting for that."""

import asyncio
from typing import Any, Literal

#: What ended a call early.
Ended = Literal["cancelled", "timeout"]


async def first_end(
    work: asyncio.Task[Any], cancelled: asyncio.Event, seconds: float | None = None
) -> Ended | None:
    """None when the work has ended; else what came before that."""
    cancel = asyncio.create_task(cancelled.wait())
    try:
        await asyncio.wait([work, cancel], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        cancel.cancel()
    if work.done():
        return None
    return "cancelled" if cancelled.is_set() else "timeout"


async def given_up(
    work: asyncio.Task[Any], cancelled: asyncio.Event, seconds: float | None = None
) -> Ended | None:
    """The same, and the work is cancelled where something came before its end."""
    ended = await first_end(work, cancelled, seconds)
    if ended is not None:
        work.cancel()
        await asyncio.wait([work])
    return ended
