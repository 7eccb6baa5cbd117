"""The gateway's one thread for the token store: the event loop never waits for a lock or a disk."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Concatenate, ParamSpec, TypeVar

from hermes_nodes.tokens import TokenStore

_P = ParamSpec("_P")
_R = TypeVar("_R")


class StoreThread:
    """Work in the store, one piece after the other, in the order in which it was asked for."""

    def __init__(self, store: TokenStore) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hermes-nodes-store")

    async def change(
        self,
        apply: Callable[[_R], object],
        work: Callable[Concatenate[TokenStore, _P], _R],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _R:
        """Do the work in the store, then apply it to a view of it, also if the caller no longer waits."""
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._thread, lambda: work(self._store, *args, **kwargs))

        def done(finished: asyncio.Future[_R]) -> None:
            if not finished.cancelled() and finished.exception() is None:
                apply(finished.result())

        future.add_done_callback(done)
        return await asyncio.shield(future)

    async def run(
        self, work: Callable[Concatenate[TokenStore, _P], _R], *args: _P.args, **kwargs: _P.kwargs
    ) -> _R:
        """Do the work in the store; what it gives, or raises."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: work(self._store, *args, **kwargs))

    async def close(self) -> None:
        """Wait for what is being done; the store is closed by whoever opened it."""
        await asyncio.to_thread(self._thread.shutdown)
