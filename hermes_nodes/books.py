"""A home's books, opened together: its token store, and its trail, whose chain the store vouches for."""

import logging
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from hermes_nodes import takeover
from hermes_nodes.audit import AuditLog
from hermes_nodes.audit.chain import KEY_BYTES, Chain, ChainRecord, Chains
from hermes_nodes.audit.retention import delete, expired
from hermes_nodes.config import Settings
from hermes_nodes.errors import AuditUnwritable, BadKey, HermesNodesError, StoreDamaged
from hermes_nodes.keys import end_rotation, ensure_key, explain_wrong_key, next_key
from hermes_nodes.operations import local_actor
from hermes_nodes.records import Pairing, Secret
from hermes_nodes.tokens import TokenStore

log = logging.getLogger(__name__)

#: Under these names the store keeps the chain's key, and its head with the chains before it.
CHAIN_KEY, CHAINS = "audit_key", "audit_chains"


class Books:
    """``with Books.open(settings) as books:`` while the caller holds the home's lock.

    ``tell`` gets a sentence for whatever is done for that: a key made, the older system's pairings taken.
    """

    def __init__(self, store: TokenStore, trail: AuditLog, chain: Chain) -> None:
        self.store = store
        self.trail = trail
        self.chain = chain
        self._saved = chain.chains

    @classmethod
    def open(
        cls,
        settings: Settings,
        environ: Mapping[str, str] = os.environ,
        *,
        tell: Callable[[str], object] = log.info,
        lenient: bool = False,
    ) -> Self:
        """Raises BadKey, SettingsError, StoreDamaged, and unless ``lenient`` AuditUnwritable."""
        older = takeover.pending(settings)
        key, made_key = ensure_key(settings, environ, older)
        # Read first: where this fails, no store must have been made with a key that may be the wrong one.
        found = takeover.read(older, key) if older else []
        if made_key:
            tell(f"made a token key and saved it in {settings.env_path}")
        if takeover.is_missing(settings):
            tell(f"warning: {settings.older_store_path} is not there: this starts with an empty store")
        with ExitStack() as stack:
            store = stack.enter_context(_open_store(settings, environ, key))
            for sentence in end_rotation(settings, environ, store.key):
                tell(sentence)
            chain = _chain(store, settings.audit_log_path)
            trail = stack.enter_context(open_trail(settings, chain, lenient=lenient))
            books = cls(store, trail, chain)
            books.begin(lenient=lenient)
            if older is not None:
                tell(_take_over(store, trail, older, found))
            stack.pop_all()
        return books

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        with self.store, self.trail:
            self.trail.sync()
            with suppress(HermesNodesError):  # a head that is behind is caught up with at the next start
                self.save()

    def begin(self, *, lenient: bool) -> None:
        """What a chain must have before its first row: a place in the store; and then that row."""
        self._keep(self.chain.chains)
        if not self.chain.chains.past or self.chain.head.seq:
            return
        before = self.chain.chains.past[-1]
        with suppress(*([AuditUnwritable] if lenient else [])):
            self.trail.append(
                action="settings",
                status="ok",
                actor=local_actor(),
                command=f"audit_log_path: this trail goes on after row {before.seq} of the one in `path`",
                path=before.path,
            )

    def save(self) -> None:
        """Put the chain's head, as far as it is on the disk, in the store; delete what has had its time."""
        chain, trail = self.chain, self.trail
        gone: list[Path] = []
        chains = chain.chains
        if trail.expiry_due:
            trail.expiry_due = False
            gone, chains = expired(trail.path, chain, trail.retention_days)
        chain.chains = chains
        if trail.settled is not None:
            chains = chain.with_current(seq=trail.settled.seq, hash=trail.settled.hash.hex())
        self._keep(chains)
        delete(gone)

    def _keep(self, chains: Chains) -> None:
        if chains != self._saved:
            self.store.keep({CHAINS: msgspec.json.encode(chains)})
            self._saved = chains


def _open_store(settings: Settings, environ: Mapping[str, str], key: str) -> TokenStore:
    path = settings.token_store_path
    try:
        return TokenStore.open(path, [key, *next_key(settings)])
    except BadKey as error:
        raise explain_wrong_key(settings, environ, path, error) from None


def open_trail(settings: Settings, chain: Chain, *, lenient: bool = False) -> AuditLog:
    return AuditLog(
        settings.audit_log_path,
        max_bytes=settings.audit_max_bytes,
        retention_days=settings.audit_retention_days,
        fsync=settings.audit_fsync,
        chain=chain,
        lenient=lenient,
    )


def stored_chains(store: TokenStore) -> tuple[bytes, Chains] | None:
    """The chain's key and what the store knows of the chains; None if no row was ever chained."""
    key, chains = store.kept(CHAIN_KEY), store.kept(CHAINS)
    if key is None or chains is None:
        return None
    try:
        return key, msgspec.json.decode(chains, type=Chains)
    except msgspec.DecodeError as error:
        raise StoreDamaged("the token store's record of the audit trail can't be understood") from error


def read_chains(path: Path, keys: Sequence[str]) -> tuple[bytes, Chains] | None:
    """The same from a store, or a copy of one, that stays as it is; one of the keys must be its own."""
    with TokenStore.read_only(path, keys) as store:
        return stored_chains(store)


def _chain(store: TokenStore, path: Path) -> Chain:
    """The home's chain; a new one is in the store before its first row is anywhere."""
    stored = stored_chains(store)
    if stored is not None:
        return Chain(*stored)
    key, chains = secrets.token_bytes(KEY_BYTES), Chains(current=ChainRecord(path=str(path)))
    store.keep({CHAIN_KEY: key, CHAINS: msgspec.json.encode(chains)})
    return Chain(key, chains, is_new=True)


def _take_over(
    store: TokenStore, trail: AuditLog, older: Path, found: Sequence[tuple[Pairing, Secret]]
) -> str:
    actor = local_actor()

    def note(pairings: Sequence[Pairing]) -> None:
        for pairing in pairings:
            if pairing.revoked_at is None:
                trail.append(
                    action="pair",
                    status="ok",
                    node=pairing.name,
                    pairing_id=pairing.id,
                    actor=actor,
                    path=str(older),
                )

    added = store.take_over(older, found, before_commit=note)
    revoked = sum(pairing.revoked_at is not None for pairing in added)
    return f"took over {len(added)} pairings ({revoked} revoked) from {older}"
