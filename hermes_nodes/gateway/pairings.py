"""The gateway's own view of the token store: in memory for every question, one thread for every change.

The gateway holds the home's lock, so nobody else changes the store and the view is never stale.
"""

import logging
import secrets
from collections.abc import Callable
from contextlib import suppress

import msgspec

from hermes_nodes import operations
from hermes_nodes.audit import AuditLog
from hermes_nodes.clock import timestamp
from hermes_nodes.errors import HermesNodesError, NotAllowed, Unavailable, UnknownNode
from hermes_nodes.gateway.operators import Actor, Operators
from hermes_nodes.gateway.store_thread import StoreThread
from hermes_nodes.operators import EVERYTHING, Needs, Operator, Scope
from hermes_nodes.protocol.handshake import Credentials
from hermes_nodes.records import Pairing, Secret, Seen
from hermes_nodes.tokens import TokenStore

log = logging.getLogger(__name__)

#: Tokens that one pairing may have: under rotation the old one and the new one.
MOST_TOKENS = 2
_NOT_FACTS = ("pairing_id", "at")


class Pairings:
    """``on_revoked`` is called, in the event loop, as soon as a pairing is no more."""

    def __init__(
        self,
        store: StoreThread,
        trail: AuditLog,
        operators: Operators,
        on_revoked: Callable[[Pairing], None],
    ) -> None:
        self._store = store
        self._trail = trail
        self._operators = operators
        self._on_revoked = on_revoked
        self._live: dict[str, Pairing] = {}
        #: By pairing, the newest first.
        self._secrets: dict[str, list[Secret]] = {}
        #: Of each pairing the newest secret that has been used: what is older is dead.
        self._used: dict[str, int] = {}
        self._unsaved: dict[str, Seen] = {}
        #: Something was seen that should not wait for the next batch.
        self.urgent = False
        # What an unknown name is checked against: nobody holds it, and checking it costs the same.
        self._nobody = Secret("token", secrets.token_urlsafe(32))
        self._nobodys_pairing = Pairing("", "", {}, timestamp())

    async def load(self) -> None:
        for pairing, known in await self._store.run(_load):
            self._live[pairing.name] = pairing
            self._secrets[pairing.id] = known

    async def in_store(self, work: Callable[[], None]) -> None:
        """Do something else with the store, in its one thread."""
        await self._store.run(lambda _: work())

    # -- questions --

    def get(self, name: str) -> Pairing | None:
        return self._live.get(name)

    def admitted(self, name: str) -> Pairing | None:
        """The pairing of a name, if it may log in now."""
        # Asked of a name that is unknown as well: the clock must not tell.
        pairing = self._live.get(name, self._nobodys_pairing)
        admits = pairing.admits(timestamp())
        return pairing if admits and pairing is not self._nobodys_pairing else None

    def secrets(self, pairing: Pairing | None) -> list[Secret]:
        """What proves a pairing now, the newest first; what nobody can prove, for none."""
        now = timestamp()
        known = self._secrets.get(pairing.id, []) if pairing else self.nobodys(1)
        return [one for one in known if one.dies_at is None or now < one.dies_at]

    def nobodys(self, count: int) -> list[Secret]:
        """Secrets that nobody holds."""
        return [self._nobody] * count

    def is_good(self, pairing_id: str, secret_id: int, now: str) -> bool:
        """Whether a secret with which a session was opened still opens one."""
        known = self._secrets.get(pairing_id, [])
        return any(one.id == secret_id and (one.dies_at is None or now < one.dies_at) for one in known)

    def live(self) -> list[Pairing]:
        return sorted(self._live.values(), key=lambda pairing: pairing.name)

    async def everything(self) -> list[Pairing]:
        """Tombstones too, which only the store remembers."""
        stored = await self._store.run(lambda store: store.pairings(include_revoked=True))
        live = {pairing.id: pairing for pairing in self._live.values()}
        return [live.get(pairing.id, pairing) for pairing in stored]

    # -- changes --

    async def pair(self, request: operations.PairRequest, actor: Actor) -> tuple[Pairing, str]:
        def work(store: TokenStore, _: Operator | None) -> tuple[Pairing, str, list[Secret]]:
            pairing, token = operations.pair(
                store, self._trail, request, actor.name, remote_addr=actor.remote_addr
            )
            return pairing, token, store.secrets(pairing.id)

        def apply(made: tuple[Pairing, str, list[Secret]]) -> None:
            pairing, _, known = made
            self._forget(pairing.name)
            self._live[pairing.name] = pairing
            self._secrets[pairing.id] = known

        # By force it is allowed to whoever may revoke: whether there is one to replace is only known then.
        needs = _verbs("pair", "revoke") if request.force else _verbs("pair")
        pairing, token, _ = await self._operators.change(actor, needs, apply, work)
        return pairing, token

    async def rotate(
        self, name: str, request: operations.RotateRequest, actor: Actor
    ) -> tuple[Pairing, str, str | None]:
        """A new token, and when the old one dies at the latest; UnknownNode beyond the actor's scope."""
        known_now = self._live.get(name)
        used = self._used.get(known_now.id) if known_now else None

        def work(
            store: TokenStore, record: Operator | None
        ) -> tuple[tuple[Pairing, str, str | None], list[Secret]]:
            if known_now is not None and used is not None:  # what is dead here may be alive there
                store.retire_older(known_now.id, used)
            made = operations.rotate(
                store,
                self._trail,
                name,
                request,
                actor.name,
                _scope(record),
                remote_addr=actor.remote_addr,
            )
            return made, store.secrets(made[0].id)

        def apply(done: tuple[tuple[Pairing, str, str | None], list[Secret]]) -> None:
            made, known = done
            if made[0].id in self._secrets:
                oldest = self._used.get(made[0].id, 0)
                self._secrets[made[0].id] = [one for one in known if one.id >= oldest]

        made, _ = await self._operators.change(actor, _verbs("rotate"), apply, work)
        return made

    async def used(self, pairing: Pairing, secret: Secret) -> None:
        """A secret has proved itself: those that it has replaced are dead, here and in the store."""
        known = self._secrets.get(pairing.id, [])
        if all(one.id >= secret.id for one in known):
            return
        self._secrets[pairing.id] = [one for one in known if one.id >= secret.id]
        self._used[pairing.id] = secret.id
        try:
            await self._store.run(TokenStore.retire_older, pairing.id, secret.id)
        except HermesNodesError as error:
            # Here it is dead, and in the store at the next rotation or the end of its grace: no reason to
            # shut the node out.
            log.error("the replaced token of %r: %s", pairing.name, error.message)  # noqa: TRY400 - enough

    async def label(self, name: str, request: operations.LabelRequest, actor: Actor) -> Pairing:
        def apply(pairing: Pairing) -> None:
            known = self._live.get(name)
            if known is not None and known.id == pairing.id:
                self._live[name] = msgspec.structs.replace(known, labels=pairing.labels)

        def work(store: TokenStore, _: Operator | None) -> Pairing:
            by, address = actor.name, actor.remote_addr
            return operations.label(store, self._trail, name, request, by, remote_addr=address)

        return await self._operators.change(actor, _verbs("label"), apply, work)

    async def revoke(self, name: str, actor: Actor) -> Pairing:
        """End a pairing; UnknownNode for one outside of the actor's scope."""
        await self._save_quietly()
        try:
            revoked = await self._revoke(name, actor)
        except (UnknownNode, NotAllowed):
            raise
        except HermesNodesError as error:
            live = self._live.get(name)
            if live is None or not self._operators.in_scope(actor, [live]):
                raise
            # A store that can't be written must not keep a stolen token alive: here it is gone at once.
            self._forget(name)
            raise Unavailable.unsaved(repr(name), "revoke", error) from error
        return revoked.noted()

    async def _save_quietly(self) -> None:
        """What was seen of a pairing is of interest after its end, too; but that does not hang on it."""
        with suppress(HermesNodesError):
            await self.save_seen()

    async def _revoke(self, name: str, actor: Actor) -> operations.Revocation:
        def work(store: TokenStore, record: Operator | None) -> operations.Revocation:
            by, scope, address = actor.name, _scope(record), actor.remote_addr
            return operations.revoke(store, self._trail, name, by, scope, remote_addr=address)

        def apply(revoked: operations.Revocation) -> None:
            self._forget(revoked.pairing.name)

        return await self._operators.change(actor, _verbs("revoke"), apply, work)

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
            await self._store.run(TokenStore.record_seen, batch)
        except HermesNodesError:
            # The next batch takes them along, with whatever is newer.
            self._unsaved = {one.pairing_id: one for one in batch} | self._unsaved
            raise

    def _forget(self, name: str) -> None:
        pairing = self._live.pop(name, None)
        if pairing is not None:
            del self._secrets[pairing.id]
            self._used.pop(pairing.id, None)
            self._on_revoked(pairing)


class Candidate:
    """The pairing that a handshake is about, from the moment its name is claimed.

    A name that is paired anew meanwhile is another pairing, and what proved the old one proves nothing.
    """

    def __init__(self, pairings: Pairings) -> None:
        self._pairings = pairings
        self._claimed: Pairing | None = None
        self._secrets: list[Secret] = []

    def credentials(self, name: str) -> Credentials:
        """What proves a name now, for the handshake; its order is that of ``proved_by``."""
        self._claimed = self._pairings.admitted(name)
        known = self._pairings.secrets(self._claimed)
        tokens = [one for one in known if one.kind == "token"]
        hashes = [one for one in known if one.kind == "sha256"]
        if tokens:
            # As many to try for every name: the clock must not tell which is known, or being rotated.
            tokens += self._pairings.nobodys(MOST_TOKENS - len(tokens))
        self._secrets = tokens + hashes
        return Credentials(tuple(one.value for one in tokens), tuple(one.value for one in hashes))

    async def proved(self, proved_by: int) -> bool:
        """The node has proved a secret: those that it replaces die. False if it is good no more."""
        secret = self._secrets[proved_by]
        if self._claimed is None or self.admitted(secret) is None:
            return False
        await self._pairings.used(self._claimed, secret)
        return True

    def secret(self, proved_by: int) -> Secret:
        return self._secrets[proved_by]

    def admitted(self, secret: Secret) -> Pairing | None:
        """The pairing whose secret was proved, if it may still log in with that."""
        claimed = self._claimed
        pairing = self._pairings.admitted(claimed.name) if claimed else None
        same = pairing is not None and claimed is not None and pairing.id == claimed.id
        return (
            pairing
            if pairing and same and self._pairings.is_good(pairing.id, secret.id, timestamp())
            else None
        )


def _verbs(*verbs: str) -> Needs:
    """That each of these is allowed."""
    return tuple(frozenset({verb}) for verb in verbs)


def _scope(record: Operator | None) -> Scope:
    return EVERYTHING if record is None else record.scope


def _load(store: TokenStore) -> list[tuple[Pairing, list[Secret]]]:
    return [(pairing, store.secrets(pairing.id)) for pairing in store.pairings()]
