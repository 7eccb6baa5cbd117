"""The operators as the gateway sees them: in memory for every question, one thread for every change."""

import os
from collections.abc import Callable, Mapping

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
            raise NotAllowed(f"{actor.name!r} has been removed or has expired")
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

    def check_name(self, actor: Actor, verb: str, name: str, pairing: Pairing | None) -> str | None:
        """The same for an act on a name, which for whoever has all nodes may be one that was revoked.

        For anyone else the id of the pairing that was looked at: until the act is done, the name may
        have been paired anew.
        """
        record = self.record(actor)
        if record is None or record.scope.is_everything:
            self.check(actor, (frozenset({verb}),))
            return None
        return self.check_node(actor, (frozenset({verb}),), name, pairing).id

    def in_scope(self, actor: Actor, pairings: list[Pairing]) -> list[Pairing]:
        """Those of the pairings that the actor knows of."""
        record = self.record(actor)
        return pairings if record is None else [one for one in pairings if record.scope.holds(one)]

    # -- changes --

    def all(self) -> list[Operator]:
        """The operators, by name; those that have expired too."""
        return sorted((known.operator for known in self._known.values()), key=lambda one: one.name)

    async def add(self, request: administration.OperatorRequest, actor: Actor) -> tuple[Operator, str]:
        giver = self.record(actor)

        def apply(made: tuple[Known, str]) -> None:
            operator = made[0].operator
            expired = [one.id for one in self.all() if one.name == operator.name]
            for old in expired:
                del self._known[old]
            self._known[operator.id] = made[0]

        def work(store: TokenStore) -> tuple[Known, str]:
            if giver is not None and giver not in OperatorTable(store).all():
                raise NotAllowed(f"{actor.name!r} has been removed")  # while this waited for its turn
            by, address = actor.name, actor.remote_addr
            return administration.add_operator(store, self._trail, request, by, giver, remote_addr=address)

        known, token = await self._store.change(apply, work)
        return known.operator, token

    async def remove(self, name: str, actor: Actor) -> Operator:
        """End an operator, here at once even if that can't be saved; raises Unavailable then."""
        taker = self.record(actor)
        try:
            removal = await self._store.change(
                lambda done: self._forget(done.operator.id),
                administration.remove_operator,
                self._trail,
                name,
                actor.name,
                taker,
                remote_addr=actor.remote_addr,
            )
        except (UnknownOperator, NotAllowed):
            raise
        except HermesNodesError as error:
            for operator in self.all():
                if operator.name == name:
                    self._forget(operator.id)
            raise Unavailable(
                f"operator {name!r} is shut out for now, but that could not be saved: {error.message}",
                "mend that and remove it again before this gateway stops",
            ) from error
        return removal.noted()

    def _forget(self, operator_id: str) -> None:
        self._known.pop(operator_id, None)
        self._on_change()

    async def rotate_key(self, settings: Settings, actor: Actor) -> list[str]:
        """Seal the store anew; sentences about what is to be done with the new key."""
        return await self._store.run(
            administration.rotate_key, self._trail, settings, self._environ, actor.name
        )
