"""What changes and shows pairings, on store and trail: one copy for the CLI and the gateway."""

import fcntl
import getpass
import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import msgspec

from hermes_nodes.audit import AuditLog
from hermes_nodes.audit.rows import SUMMARY_CHARS
from hermes_nodes.clock import timestamp
from hermes_nodes.config import Settings
from hermes_nodes.disk import open_private
from hermes_nodes.errors import AuditUnwritable, HomeLocked, UnknownNode, UsageError
from hermes_nodes.names import check_label, check_name
from hermes_nodes.operators import EVERYTHING, Scope
from hermes_nodes.records import Pairing
from hermes_nodes.sessions import Session
from hermes_nodes.targets import is_pattern, matches, named_exactly
from hermes_nodes.tokens import TokenStore

#: Seconds that a token which has been replaced stays good, unless its successor is used before: a day.
GRACE_SECONDS = 86_400.0
#: Seconds between two looks at a lock that another command holds; it holds it for milliseconds.
_LOCK_POLL = 0.02


class HomeLock:
    """The one lock of a home: whoever holds it, and nobody else, changes the store.

    A gateway holds it for life, a command for its own operation.
    """

    def __init__(self, settings: Settings, role: str, *, wait: float = 10.0) -> None:
        self._path = settings.lock_path
        self._role = role
        self._wait = wait
        self._fd = -1

    def __enter__(self) -> Self:
        self._fd = open_private(self._path)
        try:
            self._acquire()
        except BaseException:
            os.close(self._fd)
            raise
        with suppress(OSError):  # on a full disk the lock holds all the same; this only says whose it is
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, json.dumps({"role": self._role, "pid": os.getpid()}).encode(), 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.ftruncate(self._fd, 0)
        os.close(self._fd)

    def _acquire(self) -> None:
        deadline = time.monotonic() + self._wait
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = lock_holder(self._path)
                by_gateway = holder.get("role") == "gateway"
                if by_gateway or time.monotonic() > deadline:
                    described = f"a {holder.get('role', 'process')} (pid {holder.get('pid', '?')})"
                    raise HomeLocked(str(self._path), described, by_gateway=by_gateway) from None
                time.sleep(_LOCK_POLL)
            else:
                return


def is_locked(path: Path) -> bool:
    """Whether somebody holds a home's lock now."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def lock_holder(path: Path) -> dict[str, object]:
    """What the lock's holder wrote of itself: role and pid; empty if it has not yet, or none does."""
    with suppress(OSError, ValueError, RecursionError):
        holder = json.loads(path.read_bytes())
        if isinstance(holder, dict):
            return holder
    return {}


def local_actor() -> str:
    """The user of this process, as the trail names it."""
    return f"local:{user_name(os.geteuid())}"


def user_name(uid: int) -> str:
    if uid == os.geteuid():
        with suppress(OSError, KeyError):
            return getpass.getuser()
    return str(uid)


# -- changes --------------------------------------------------------------------------------------


class PairRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What an operator asks for; durations in seconds from now."""

    name: str
    labels: dict[str, str] = {}
    expires_in: float | None = None
    first_use_within: float | None = None
    force: bool = False


def pair(
    store: TokenStore, trail: AuditLog, request: PairRequest, actor: str, *, remote_addr: str | None = None
) -> tuple[Pairing, str]:
    """A new pairing and its token, which is shown this once; raises UsageError, AlreadyPaired."""
    # A name that is paired already may be one that only the older system gave.
    name = request.name if store.live(request.name) else check_name(request.name)
    labels = dict(check_label(f"{key}={value}") for key, value in request.labels.items())

    known = {"status": "ok", "node": name, "actor": actor, "remote_addr": remote_addr}

    def note(pairing: Pairing, replaced: Pairing | None) -> None:
        if replaced is not None:
            trail.append(action="revoke", pairing_id=replaced.id, **known)
        trail.append(action="pair", pairing_id=pairing.id, **known)

    return store.pair(
        name,
        labels=labels,
        expires_at=after(request.expires_in),
        first_use_by=after(request.first_use_within),
        replace=request.force,
        before_commit=note,
    )


def pair_view(pairing: Pairing, token: str) -> dict[str, object]:
    """The JSON of `pair`."""
    return {
        "name": pairing.name,
        "token": token,
        "pairing_id": pairing.id,
        "created_at": pairing.created_at,
        "expires_at": pairing.expires_at,
        "first_use_by": pairing.first_use_by,
        "labels": pairing.labels,
    }


class RotateRequest(msgspec.Struct, forbid_unknown_fields=True):
    """``grace`` in seconds: how long the old token is good if the new one is not used before.

    Without it that is a day, or what was said at an earlier rotation that has not come to its end.
    """

    grace: float | None = None


def rotate(  # noqa: PLR0917 - as all of these, and whose nodes are meant
    store: TokenStore,
    trail: AuditLog,
    name: str,
    request: RotateRequest,
    actor: str,
    scope: Scope = EVERYTHING,
    *,
    remote_addr: str | None = None,
) -> tuple[Pairing, str, str | None]:
    """A pairing's new token and when the old one dies at the latest.

    Raises UsageError, and UnknownNode for one outside of ``scope`` as well.
    """
    asked = request.grace is not None
    dies_at = timestamp() if request.grace == 0 else after(request.grace if asked else GRACE_SECONDS)

    def note(pairing: Pairing) -> None:
        trail.append(
            action="rotate",
            status="ok",
            node=name,
            pairing_id=pairing.id,
            actor=actor,
            remote_addr=remote_addr,
        )

    return store.rotate(name, dies_at or "", cut=asked, within=scope.holds, before_commit=note)


def rotate_view(pairing: Pairing, token: str, old_dies_at: str | None) -> dict[str, object]:
    """The JSON of `rotate`."""
    return {
        "name": pairing.name,
        "token": token,
        "pairing_id": pairing.id,
        "old_token_dies_at": old_dies_at,
    }


class LabelRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Labels to set; null drops one."""

    labels: dict[str, str | None]


def label(
    store: TokenStore,
    trail: AuditLog,
    name: str,
    request: LabelRequest,
    actor: str,
    *,
    remote_addr: str | None = None,
) -> Pairing:
    """Change a pairing's labels; raises UsageError, UnknownNode."""
    for key, value in request.labels.items():
        check_label(f"{key}={value or ''}")

    def note(pairing: Pairing) -> None:
        shown = " ".join(
            f"{key}={value}" if value is not None else f"{key}-" for key, value in request.labels.items()
        )
        trail.append(
            action="label",
            status="ok",
            node=name,
            pairing_id=pairing.id,
            actor=actor,
            remote_addr=remote_addr,
            command=shown[:SUMMARY_CHARS],
        )

    return store.label(name, request.labels, before_commit=note)


def label_view(pairing: Pairing) -> dict[str, object]:
    """The JSON of `label`."""
    return {"name": pairing.name, "pairing_id": pairing.id, "labels": pairing.labels}


class Revocation(NamedTuple):
    """A pairing that is revoked, and what kept that from being written down, if anything did."""

    pairing: Pairing
    unwritten: AuditUnwritable | None

    def noted(self) -> Pairing:
        """The pairing; raises AuditUnwritable."""
        if self.unwritten is not None:
            raise self.unwritten.after(f"{self.pairing.name!r} is revoked")
        return self.pairing


def revoke(
    store: TokenStore,
    trail: AuditLog,
    name: str,
    actor: str,
    scope: Scope = EVERYTHING,
    *,
    remote_addr: str | None = None,
) -> Revocation:
    """End a pairing; revoking it again changes nothing. UnknownNode for one outside of ``scope``, too.

    It ends also where the trail can't be written: a full disk must not keep a stolen token alive.
    """
    pairing = store.revoke(name, within=scope.holds)
    try:
        trail.append(
            action="revoke",
            status="ok",
            node=name,
            pairing_id=pairing.id,
            actor=actor,
            remote_addr=remote_addr,
        )
    except AuditUnwritable as unwritten:
        return Revocation(pairing, unwritten)
    return Revocation(pairing, None)


def revoke_view(pairing: Pairing) -> dict[str, object]:
    """The JSON of `revoke`."""
    return {"name": pairing.name, "pairing_id": pairing.id, "revoked_at": pairing.revoked_at}


def after(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    if seconds <= 0:
        raise UsageError("what ends at once is of no use", "give a duration such as 30d")
    try:
        return timestamp(datetime.now(UTC) + timedelta(seconds=seconds))
    except OverflowError as error:
        raise UsageError(f"{seconds:g} seconds from now is beyond the calendar") from error


# -- views ----------------------------------------------------------------------------------------


def node_view(pairing: Pairing, session: Session | None = None, *, replaced: int = 0) -> dict[str, object]:
    """One node as `list --json` shows it; what the session knows goes before what was stored."""
    hello = session.hello if session else None
    return {
        "name": pairing.name,
        "state": pairing.state(timestamp(), session is not None),
        "labels": pairing.labels,
        "platform": hello.platform if hello else pairing.platform,
        "arch": hello.arch if hello else pairing.arch,
        "node_version": hello.node_version if hello else pairing.node_version,
        "capabilities": session.capabilities if session else pairing.capabilities,
        "encrypted": session.encrypted if session else pairing.encrypted,
        "remote_addr": session.remote_addr if session else pairing.remote_addr,
        "session_id": session.id if session else None,
        "connected_at": session.connected_at if session else None,
        "last_seen_at": session.last_seen_at if session else pairing.last_seen_at,
        "created_at": pairing.created_at,
        "expires_at": pairing.expires_at,
        "revoked_at": pairing.revoked_at,
        "calls_in_flight": len(session.calls) if session else 0,
        "pairing_id": pairing.id,
        "replaced": replaced,
        "hash_only": pairing.hash_only,
    }


def select(pairings: Iterable[Pairing], target: str | None) -> list[Pairing]:
    """The pairings that a TARGET names, in the order given; raises UnknownNode if there are none.

    A name as written always wins; else commas separate names and globs, `label:K=V` and `all`.
    """
    pairings = list(pairings)
    if target is None:
        return pairings
    exact = named_exactly(pairings, target)
    if exact:
        return exact
    now = timestamp()
    chosen: dict[str, Pairing] = {}
    for part in target.split(","):
        found = [
            pairing
            for pairing in pairings
            if matches(pairing, part) and (not is_pattern(part) or pairing.admits(now))
        ]
        if not found:
            raise UnknownNode(part, is_pattern=is_pattern(part))
        chosen.update((pairing.id, pairing) for pairing in found)
    return list(chosen.values())


def visible(
    views: Iterable[dict[str, object]], *, state: str | None, everything: bool
) -> list[dict[str, object]]:
    """The views that `list` shows: revoked ones only when asked for."""
    if state is not None:
        return [view for view in views if view["state"] == state]
    return [view for view in views if everything or view["state"] != "revoked"]
