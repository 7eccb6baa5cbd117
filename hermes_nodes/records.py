"""What the token store holds of a node: the pairing, what proves it, and what the node said of itself."""

from typing import Literal

import msgspec


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a node said of itself, and from where, when it last connected."""

    platform: str | None = None
    arch: str | None = None
    node_version: str | None = None
    capabilities: list[str] = []
    encrypted: bool | None = None
    remote_addr: str | None = None


class Seen(Facts, frozen=True):
    """One node seen at one time."""

    pairing_id: str
    at: str


class Secret(msgspec.Struct, frozen=True):
    """What a node proves to hold: its token, or for an imported record only the token's hash."""

    kind: Literal["token", "sha256"]
    value: str
    #: Its number in the store: of one pairing's secrets the newer has the higher.
    id: int = 0
    #: When it stops being good, as it has been replaced by another.
    dies_at: str | None = None

    def __repr__(self) -> str:
        return f"Secret(kind={self.kind!r}, value=…)"


class Pairing(Facts, frozen=True):
    """One pairing; a name paired again is another one, with another id."""

    id: str
    name: str
    labels: dict[str, str]
    created_at: str
    expires_at: str | None = None
    first_use_by: str | None = None
    first_used_at: str | None = None
    revoked_at: str | None = None
    last_seen_at: str | None = None
    #: The token itself is not known, so that its node can't be sure of us nor we encrypt for it.
    hash_only: bool = False

    def admits(self, now: str) -> bool:
        """Whether its token still opens the door."""
        unused = self.first_used_at is None and self.first_use_by is not None
        ends = (self.expires_at, self.first_use_by if unused else None)
        return self.revoked_at is None and all(end is None or now < end for end in ends)

    def state(self, now: str, connected: bool) -> str:
        """``connected``, ``disconnected``, ``never_seen``, ``revoked`` or ``expired``."""
        if self.revoked_at is not None:
            return "revoked"
        if not self.admits(now):
            return "expired"
        if connected:
            return "connected"
        return "disconnected" if self.last_seen_at else "never_seen"
