"""The gateway's own view of the token store: in memory for every question, one thread for every change.

The gateway holds the home's lock, so nobody else changes the store and the view is never stale.
"""

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Concatenate, ParamSpec, TypeVar

import msgspec

from hermes_nodes import operations
from hermes_nodes.audit import AuditLog
from hermes_nodes.clock import timestamp
from hermes_nodes.errors import HermesNodesError, Unavailable, UnknownNode
from hermes_nodes.protocol.handshake import Credentials
from hermes_nodes.records import Pairing, Seen
from hermes_nodes.tokens import TokenStore

_P = ParamSpec("_P")
_R = TypeVar("_R")
_NOT_FACTS = ("pairing_id", "at")


class Pairings:
    """``on_revoked`` is called, in the event loop, as soon as a pairing is no more."""

    def __init__(self, store: TokenStore, trail: AuditLog, on_revoked: Callable[[Pairing], None]) -> None:
        self._store = store
        self._trail = trail
        self._on_revoked = on_revoked
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hermes-nodes-store")
        self._live: dict[str, Pairing] = {}
        self._credentials: dict[str, Credentials] = {}
        self._unsaved: dict[str, Seen] = {}
        #: Something was seen that should not wait for the next batch.
        self.urgent = False
        # What an unknown name is checked against: nobody holds it, and checking it costs the same.
        self._nobody = Credentials((secrets.token_urlsafe(32),))

    async def load(self) -> None:
        for pairing, credentials in await self._run(_load):
            self._live[pairing.name] = pairing
            self._credentials[pairing.id] = credentials

    async def close(self) -> None:
        """Wait for what is being done in the store; to close that is for whoever opened it."""
        await asyncio.to_thread(self._thread.shutdown)

    async def in_store(self, work: Callable[[], None]) -> None:
        """Do something else with the store, in its one thread."""
        await self._run(lambda _: work())

    # -- questions --

    def get(self, name: str) -> Pairing | None:
        return self._live.get(name)

    def admitted(self, name: str) -> Pairing | None:
        """The pairing of a name, if it may log in now."""
        pairing = self._live.get(name)
        return pairing if pairing is not None and pairing.admits(timestamp()) else None

    def credentials(self, name: str) -> Credentials:
        """What proves a name; what nobody can prove, for a name that isn't admitted."""
        pairing = self.admitted(name)
        return self._credentials[pairing.id] if pairing else self._nobody

    def live(self) -> list[Pairing]:
        return sorted(self._live.values(), key=lambda pairing: pairing.name)

    async def everything(self) -> list[Pairing]:
        """Tombstones too, which only the store remembers."""
        stored = await self._run(lambda store: store.pairings(include_revoked=True))
        live = {pairing.id: pairing for pairing in self._live.values()}
        return [live.get(pairing.id, pairing) for pairing in stored]

    # -- changes --

    async def pair(self, request: operations.PairRequest, actor: str) -> tuple[Pairing, str]:
        def apply(made: tuple[Pairing, str]) -> None:
            pairing, token = made
            self._forget(pairing.name)
            self._live[pairing.name] = pairing
            self._credentials[pairing.id] = Credentials((token,))

        return await self._change(apply, operations.pair, self._trail, request, actor)

    async def label(self, name: str, request: operations.LabelRequest, actor: str) -> Pairing:
        def apply(pairing: Pairing) -> None:
            known = self._live.get(name)
            if known is not None and known.id == pairing.id:
                self._live[name] = msgspec.structs.replace(known, labels=pairing.labels)

        return await self._change(apply, operations.label, self._trail, name, request, actor)

    async def revoke(self, name: str, actor: str) -> Pairing:
        await self._save_quietly()
        try:
            revoked = await self._revoke(name, actor)
        except UnknownNode:
            raise
        except HermesNodesError as error:
            # A store that can't be written must not keep a stolen token alive: here it is gone at once.
            self._forget(name)
            raise Unavailable(
                f"{name!r} is shut out for now, but that could not be saved: {error.message}",
                "mend that and revoke it again before this gateway stops",
            ) from error
        return revoked.noted()

    async def _save_quietly(self) -> None:
        """What was seen of a pairing is of interest after its end, too; but that does not hang on it."""
        with suppress(HermesNodesError):
            await self.save_seen()

    async def _revoke(self, name: str, actor: str) -> operations.Revocation:
        return await self._change(
            lambda revoked: self._forget(revoked.pairing.name),
            operations.revoke,
            self._trail,
            name,
            actor,
        )

    def saw(self, name: str, seen: Seen) -> None:
        """A node has shown itself: known here at once, and in the store with the next batch."""
        pairing = self._live.get(name)
        if pairing is None or pairing.id != seen.pairing_id:
            return
        # An unused pairing that would end must not be forgotten to have been used.
        self.urgent = self.urgent or (pairing.first_used_at is None and pairing.first_use_by is not None)
        facts = {key: value for key, value in msgspec.structs.asdict(seen).items() if key not in _NOT_FACTS}
        self._live[name] = msgspec.structs.replace(
            pairing, **facts, last_seen_at=seen.at, first_used_at=pairing.first_used_at or seen.at
        )
        self._unsaved[seen.pairing_id] = seen

    async def save_seen(self) -> None:
        """Write what was seen since the last batch."""
        batch = list(self._unsaved.values())
        self._unsaved.clear()
        self.urgent = False
        if not batch:
            return
        try:
            await self._run(TokenStore.record_seen, batch)
        except HermesNodesError:
            # The next batch takes them along, with whatever is newer.
            self._unsaved = {one.pairing_id: one for one in batch} | self._unsaved
            raise

    def _forget(self, name: str) -> None:
        pairing = self._live.pop(name, None)
        if pairing is not None:
            del self._credentials[pairing.id]
            self._on_revoked(pairing)

    # -- the store's thread --

    async def _change(
        self,
        apply: Callable[[_R], None],
        work: Callable[Concatenate[TokenStore, _P], _R],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _R:
        """Do the work in the store, then apply it to the view, also if the caller no longer waits."""
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._thread, lambda: work(self._store, *args, **kwargs))

        def done(finished: asyncio.Future[_R]) -> None:
            if not finished.cancelled() and finished.exception() is None:
                apply(finished.result())

        future.add_done_callback(done)
        return await asyncio.shield(future)

    async def _run(
        self, work: Callable[Concatenate[TokenStore, _P], _R], *args: _P.args, **kwargs: _P.kwargs
    ) -> _R:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: work(self._store, *args, **kwargs))


class Candidate:
    """The pairing that a handshake is about, from the moment its name is claimed.

    A name that is paired anew meanwhile is another pairing, and what proved the old one proves nothing.
    """

    def __init__(self, pairings: Pairings) -> None:
        self._pairings = pairings
        self._claimed: Pairing | None = None

    def credentials(self, name: str) -> Credentials:
        """What proves a name now, for the handshake."""
        self._claimed = self._pairings.admitted(name)
        return self._pairings.credentials(name)

    def admitted(self) -> Pairing | None:
        """The pairing whose credentials were given out, if it may still log in."""
        claimed = self._claimed
        pairing = self._pairings.admitted(claimed.name) if claimed else None
        return pairing if pairing and claimed and pairing.id == claimed.id else None


def _load(store: TokenStore) -> list[tuple[Pairing, Credentials]]:
    return [(pairing, _credentials(store, pairing)) for pairing in store.pairings()]


def _credentials(store: TokenStore, pairing: Pairing) -> Credentials:
    known = store.secrets(pairing.id)
    return Credentials(
        tokens=tuple(secret.value for secret in known if secret.kind == "token"),
        hashes=tuple(secret.value for secret in known if secret.kind == "sha256"),
    )
