"""The operators as the gateway sees them: in memory for every question, one thread for every change."""

import os
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from hermes_nodes import administration
from hermes_nodes.audit import AuditLog
from hermes_nodes.clock import timestamp
from hermes_nodes.config import Settings
from hermes_nodes.errors import (
    HermesNodesError,
    NotAllowed,
    Unavailable,
    UnknownNode,
    UnknownOperator,
)
from hermes_nodes.gateway.store_thread import StoreThread
from hermes_nodes.operator_table import Known, OperatorTable
from hermes_nodes.operators import Needs, Operator, claimed_id, is_proof
from hermes_nodes.records import Pairing
from hermes_nodes.tokens import TokenStore

_R = TypeVar("_R")
_OPERATE: Needs = (frozenset({"operate"}),)


class Actor(msgspec.Struct, frozen=True):
    """Who asks: the one identity that is checked and written down."""

    name: str
    remote_addr: str | None = None
    #: None for the local user on the control socket, who may do everything.
    operator_id: str | None = None


class Operators:
    """``on_change`` is called, in the event loop, when somebody may do less than before."""

    def __init__(
        self,
        store: StoreThread,
        trail: AuditLog,
        on_change: Callable[[], None],
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._store = store
        self._environ = environ
        self._trail = trail
        self._on_change = on_change
        self._known: dict[str, Known] = {}

    async def load(self) -> None:
        for known in await self._store.run(lambda store: OperatorTable(store).known()):
            self._known[known.operator.id] = known

    # -- who it is, and what it may do: from the record alone --

    def authenticate(self, token: str) -> Operator | None:
        """The operator whose token this is, if it is good now; takes as long for one that is nobody's."""
        known = self._known.get(claimed_id(token))
        proved = is_proof(token, known.verifier if known else None)
        good = known is not None and proved and known.operator.is_valid(timestamp())
        return known.operator if known and good else None

    def fault(self, token: str) -> str:
        """Why a token is not good, for the trail alone."""
        known = self._known.get(claimed_id(token))
        if known is None:
            return "not an operator's token, or a removed one's" if token else "no operator token"
        if not is_proof(token, known.verifier):
            return f"wrong token for operator {known.operator.name}"
        return f"operator {known.operator.name} has expired"

    def record(self, actor: Actor) -> Operator | None:
        """The actor's record as it is now, None for the local user; NotAllowed if it has ended."""
        if actor.operator_id is None:
            return None
        known = self._known.get(actor.operator_id)
        if known is None or not known.operator.is_valid(timestamp()):
            raise _ended(actor)
        return known.operator

    def check(self, actor: Actor, needs: Needs) -> None:
        """Raises NotAllowed if the actor lacks a verb."""
        record = self.record(actor)
        if record is not None:
            record.require(needs)

    def check_node(self, actor: Actor, needs: Needs, name: str, pairing: Pairing | None) -> Pairing:
        """The pairing that an act is about; UnknownNode for one outside of the actor's scope, too."""
        record = self.record(actor)
        if pairing is None or (record is not None and not record.scope.holds(pairing)):
            raise UnknownNode(name)
        if record is not None:
            record.require(needs)
        return pairing

    def in_scope(self, actor: Actor, pairings: list[Pairing]) -> list[Pairing]:
        """Those of the pairings that the actor knows of."""
        record = self.record(actor)
        return pairings if record is None else [one for one in pairings if record.scope.holds(one)]

    # -- changes --

    async def change(
        self,
        actor: Actor,
        needs: Needs,
        apply: Callable[[_R], object],
        work: Callable[[TokenStore, Operator | None], _R],
    ) -> _R:
        """A change of the store that somebody asks for; the one way to any.

        The actor is looked up when its turn comes: what was done before it may have been the actor's end.
        ``work`` gets its record, None for the local user; raises NotAllowed.
        """

        def permitted(store: TokenStore) -> _R:
            record = self._record_in(store, actor)
            if record is not None:
                record.require(needs)
            return work(store, record)

        return await self._store.change(apply, permitted)

    def _record_in(self, store: TokenStore, actor: Actor) -> Operator | None:
        """The actor's record as it is now, in the store's thread.

        The store may know of an end that is not known here yet, and a removal that could not be saved is
        known here alone.
        """
        record = self.record(actor)
        if record is not None and record not in OperatorTable(store).all():
            raise _ended(actor)
        return record

    def all(self) -> list[Operator]:
        """The operators, by name; those that have expired too."""
        return sorted((known.operator for known in self._known.values()), key=lambda one: one.name)

    async def add(self, request: administration.OperatorRequest, actor: Actor) -> tuple[Operator, str]:
        def apply(made: tuple[Known, str]) -> None:
            operator = made[0].operator
            expired = [one.id for one in self.all() if one.name == operator.name]
            for old in expired:
                del self._known[old]
            self._known[operator.id] = made[0]

        def work(store: TokenStore, giver: Operator | None) -> tuple[Known, str]:
            by, address = actor.name, actor.remote_addr
            return administration.add_operator(store, self._trail, request, by, giver, remote_addr=address)

        known, token = await self.change(actor, _OPERATE, apply, work)
        return known.operator, token

    async def remove(self, name: str, actor: Actor) -> Operator:
        """End an operator, here at once even if that can't be saved; raises Unavailable then."""

        def work(store: TokenStore, taker: Operator | None) -> administration.Removal:
            by, address = actor.name, actor.remote_addr
            return administration.remove_operator(store, self._trail, name, by, taker, remote_addr=address)

        try:
            removal = await self.change(actor, _OPERATE, lambda done: self._forget(done.operator.id), work)
        except (UnknownOperator, NotAllowed):
            raise
        except HermesNodesError as error:
            taker = self.record(actor)
            for operator in self.all():
                if operator.name == name:
                    if taker is not None:
                        taker.require_holding(operator.verbs, operator.expires_at)
                    self._forget(operator.id)
            raise Unavailable.unsaved(f"operator {name!r}", "remove", error) from error
        return removal.noted()

    def _forget(self, operator_id: str) -> None:
        self._known.pop(operator_id, None)
        self._on_change()

    async def rotate_key(self, settings: Settings, actor: Actor) -> list[str]:
        """Seal the store anew; sentences about what is to be done with the new key."""

        def work(store: TokenStore, _: Operator | None) -> list[str]:
            return administration.rotate_key(store, self._trail, settings, self._environ, actor.name)

        return await self.change(actor, (), lambda _: None, work)


def _ended(actor: Actor) -> NotAllowed:
    return NotAllowed(f"{actor.name!r} has been removed or has expired")
