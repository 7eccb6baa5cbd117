"""What changes operators and the token key, on store and trail: one copy for the CLI and the gateway."""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from hermes_nodes.audit import AuditLog
from hermes_nodes.config import Settings
from hermes_nodes.errors import AuditUnwritable
from hermes_nodes.keys import announce_key, finish_rotation, withdraw_key
from hermes_nodes.names import check_operator_name
from hermes_nodes.operations import after
from hermes_nodes.operator_table import Known, OperatorTable
from hermes_nodes.operators import DEFAULT_VERBS, Operator, check_verbs, make_scope
from hermes_nodes.targets import ALL
from hermes_nodes.tokens import TokenStore


class OperatorRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A new operator: ``nodes`` is a TARGET, ``expires_in`` in seconds from now."""

    name: str
    allow: tuple[str, ...] = DEFAULT_VERBS
    nodes: str = ALL
    expires_in: float | None = None


def add_operator(
    store: TokenStore,
    trail: AuditLog,
    request: OperatorRequest,
    actor: str,
    giver: Operator | None = None,
    *,
    remote_addr: str | None = None,
) -> tuple[Known, str]:
    """A new operator and its token, which is shown this once.

    ``giver`` is the operator who adds it, None for the local one; nobody hands on more than it has.
    Raises UsageError, UnknownNode, NotAllowed, AlreadyExists.
    """
    name = check_operator_name(request.name)
    scope = make_scope(request.nodes, store.pairings())
    verbs = check_verbs(request.allow, scope)
    expires_at = after(request.expires_in)
    if giver is not None:
        if request.expires_in is None:
            expires_at = giver.expires_at
        giver.require_holding(verbs, expires_at)

    def note(operator: Operator) -> None:
        trail.append(
            action="operator",
            status="ok",
            actor=actor,
            remote_addr=remote_addr,
            command=f"add {describe(operator)}",
        )

    return OperatorTable(store).add(
        name, verbs=verbs, scope=scope, expires_at=expires_at, created_by=actor, before_commit=note
    )


class Removal(NamedTuple):
    """An operator that is removed, and what kept that from being written down, if anything did."""

    operator: Operator
    unwritten: AuditUnwritable | None

    def noted(self) -> Operator:
        """The operator; raises AuditUnwritable where its row is missing."""
        if self.unwritten is not None:
            raise self.unwritten.after(f"operator {self.operator.name!r} is removed")
        return self.operator


def remove_operator(
    store: TokenStore,
    trail: AuditLog,
    name: str,
    actor: str,
    taker: Operator | None = None,
    *,
    remote_addr: str | None = None,
) -> Removal:
    """End an operator; raises UnknownOperator, and NotAllowed for one who holds more than ``taker``.

    It ends also where the trail can't be written: a full disk must not keep a stolen token alive.
    """
    table = OperatorTable(store)
    if taker is not None:
        for operator in table.all():
            if operator.name == name:
                taker.require_holding(operator.verbs, operator.expires_at)
    removed = table.remove(name)
    try:
        trail.append(
            action="operator", status="ok", actor=actor, remote_addr=remote_addr, command=f"remove {name}"
        )
    except AuditUnwritable as unwritten:
        return Removal(removed, unwritten)
    return Removal(removed, None)


def operator_view(operator: Operator) -> dict[str, object]:
    """One operator as `operator list --json` shows it."""
    return {
        "name": operator.name,
        "allow": list(operator.verbs),
        "nodes": str(operator.scope),
        "created_at": operator.created_at,
        "created_by": operator.created_by,
        "expires_at": operator.expires_at,
        "operator_id": operator.id,
    }


def describe(operator: Operator) -> str:
    """What an operator is, in a row of the trail."""
    until = f" until {operator.expires_at}" if operator.expires_at else ""
    return f"{operator.name}: {','.join(operator.verbs)} on {operator.scope}{until}"


def rotate_key(
    store: TokenStore, trail: AuditLog, settings: Settings, environ: Mapping[str, str], actor: str
) -> list[str]:
    """Seal the store's secrets anew under a new key; sentences about what is to be done with it.

    The key itself is in the home's ``.env`` and nowhere else.
    """
    # What an earlier one has left: the key that the store is sealed with must not be written over.
    finish_rotation(settings, environ, store.key)
    key = announce_key(settings)
    try:
        store.rekey(key, lambda: trail.append(action="key", status="ok", actor=actor, command="rotate"))
    except AuditUnwritable:
        # Then nothing has happened. Of a disk that fails during the commit nobody knows: the next opening
        # finds out which of the two keys it is.
        withdraw_key(settings)
        raise
    notes = finish_rotation(settings, environ, key)
    store.clear_log()
    return notes
