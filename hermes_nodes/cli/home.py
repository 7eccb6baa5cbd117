"""This machine's home: through its gateway if one runs, else by itself under the home's lock."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from hermes_nodes import config
from hermes_nodes.cli.output import say
from hermes_nodes.client import Client
from hermes_nodes.errors import (
    GatewayNotAnswering,
    GatewayNotRunning,
    HermesNodesError,
    HomeLocked,
    UsageError,
)

if TYPE_CHECKING:
    from hermes_nodes.audit import AuditLog
    from hermes_nodes.tokens import TokenStore

_T = TypeVar("_T")
#: Seconds that a gateway which holds the lock gets to open its socket.
_STARTING = 2.0
_RETRY = 0.05


def client(context: typer.Context) -> Client:
    """The gateway that was asked for; raises UsageError if the token's file can't be read."""
    return Client(context.obj.gateway, token=_token(context.obj.operator_token_file))


def _token(path: Path | None) -> str | None:
    """The operator token in a file."""
    if path is None:
        return None
    try:
        token = path.read_text("ascii", "replace").strip()
    except OSError as error:
        raise UsageError(f"the operator token can't be read from {path}: {error.strerror}") from error
    if not token:
        raise UsageError(f"{path} holds no operator token")
    return token


def settings() -> config.Settings:
    """The settings of this home, with their warnings said."""
    loaded = config.load()
    for warning in loaded.warnings:
        say(f"warning: {warning}")
    return loaded


def change(
    context: typer.Context,
    through_gateway: Callable[[Client], _T],
    by_itself: Callable[["TokenStore", "AuditLog"], _T],
    *,
    without_store: HermesNodesError | None = None,
) -> _T:
    """One change: by the gateway that runs, or here if none does and none was asked for.

    ``without_store`` is raised where there is no store yet; without it, one is made.
    """
    gateway = client(context)
    deadline = time.monotonic() + _STARTING
    while True:
        try:
            return through_gateway(gateway)
        except GatewayNotRunning:
            if context.obj.gateway:
                raise
        try:
            with open_home(without_store) as (store, trail):
                return by_itself(store, trail)
        except HomeLocked as error:
            if not error.by_gateway:
                raise
            if time.monotonic() > deadline:
                raise GatewayNotAnswering(gateway.gateway) from error
            time.sleep(_RETRY)


@contextmanager
def open_home(
    without_store: HermesNodesError | None = None,
) -> Iterator[tuple["TokenStore", "AuditLog"]]:
    """Store and trail of this home, locked, for one change without a gateway."""
    from hermes_nodes import takeover  # noqa: PLC0415 - with a gateway none of this is needed

    loaded = settings()
    if without_store is not None and takeover.is_untouched(loaded):
        raise without_store
    with _locked(loaded, "no gateway runs on this home: changing it directly") as opened:
        yield opened


def take_over(loaded: config.Settings) -> None:
    """Take over what the older system has left in this home, if that has not been done yet."""
    from hermes_nodes import takeover  # noqa: PLC0415 - with a gateway none of this is needed

    if takeover.pending(loaded) is not None:
        with _locked(loaded):
            pass


@contextmanager
def _locked(loaded: config.Settings, *first: str) -> Iterator[tuple["TokenStore", "AuditLog"]]:
    """Store and trail; ``first`` is said when both are open."""
    from hermes_nodes.books import Books  # noqa: PLC0415
    from hermes_nodes.operations import HomeLock  # noqa: PLC0415 - with a gateway none of this is needed

    with HomeLock(loaded, "command"):
        notes: list[str] = []
        try:
            books = Books.open(loaded, tell=notes.append)
        except HermesNodesError:
            first = ()  # what it says is not going to happen
            raise
        finally:
            for sentence in (*first, *notes):
                say(sentence)
        with books:
            yield books.store, books.trail


def paired_names(incomplete: str) -> list[str]:
    """Names for completion, from the store alone: no gateway, no key, and never an error."""
    from hermes_nodes.tokens import TokenStore  # noqa: PLC0415

    try:
        path = config.load(environ=os.environ).token_store_path
        with TokenStore.read_only(path) as store:
            return [pairing.name for pairing in store.pairings() if pairing.name.startswith(incomplete)]
    except (HermesNodesError, OSError):
        return []
