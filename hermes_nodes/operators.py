"""Operators: what each may do, on which nodes, and until when. Decided from its record alone."""

import hashlib
import hmac
import secrets
import uuid
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from hermes_nodes.errors import NotAllowed, UnknownNode, UsageError
from hermes_nodes.targets import ALL, LABEL, Named, is_pattern, matches, named_exactly

#: Everything that an operator can be allowed to do.
VERBS = (
    "list", "exec", "read", "write", "cp", "shell", "jobs", "pair", "revoke", "rotate", "label", "audit",
    "operate",
)  # fmt: skip
#: What could widen a scope: a node paired under a matching name, a label set on another, a new operator.
UNSCOPED = frozenset({"pair", "label", "operate"})
#: What an operator may do if nothing was said: look.
DEFAULT_VERBS = ("list",)
#: A call is allowed if, of each of these sets, its operator holds one verb.
Needs = tuple[frozenset[str], ...]

TOKEN_PREFIX = "hno_"  # noqa: S105 - says what follows, and is no secret
_ID_CHARS = 36
_NOBODY = hashlib.sha256(secrets.token_bytes(32)).digest()


class Scope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which nodes: a plain name is bound to its pairing, so that the name paired anew is not in it."""

    #: Globs, labels and `all`.
    patterns: tuple[str, ...] = ()
    #: Names by the ids of their pairings.
    pairings: Mapping[str, str] = {}

    @property
    def is_everything(self) -> bool:
        return ALL in self.patterns

    def holds(self, node: Named) -> bool:
        return node.id in self.pairings or any(matches(node, part) for part in self.patterns)

    def __str__(self) -> str:
        return ",".join((*self.patterns, *self.pairings.values()))


#: All nodes: the local user's scope, and an operator's of which nothing else was said.
EVERYTHING = Scope((ALL,))


def make_scope(target: str, nodes: Iterable[Named]) -> Scope:
    """The scope that a TARGET means now; raises UnknownNode for a plain name that is not paired."""
    nodes = list(nodes)
    exact = named_exactly(nodes, target)
    if exact:
        return Scope(pairings={node.id: node.name for node in exact})
    patterns: list[str] = []
    pairings: dict[str, str] = {}
    for part in target.split(","):
        if is_pattern(part):
            _check_pattern(part)
            patterns.append(part)
            continue
        found = named_exactly(nodes, part)
        if not found:
            raise UnknownNode(part)
        pairings |= {node.id: node.name for node in found}
    return Scope(tuple(patterns), pairings)


def _check_pattern(part: str) -> None:
    key, equals, _ = part.removeprefix(LABEL).partition("=")
    if part.startswith(LABEL) and not (key and equals):
        raise UsageError(f"{part[:80]!r} is not a label", "write label:K=V")


class Operator(msgspec.Struct, frozen=True):
    """One operator's record; times in RFC 3339."""

    id: str
    name: str
    verbs: tuple[str, ...]
    scope: Scope
    created_at: str
    created_by: str
    expires_at: str | None = None
    removed_at: str | None = None

    def is_valid(self, now: str) -> bool:
        return self.removed_at is None and (self.expires_at is None or now < self.expires_at)

    def require(self, needs: Needs) -> None:
        """Raises NotAllowed for the first verb that is lacking."""
        for choices in needs:
            if choices.isdisjoint(self.verbs):
                lacking = "` or `".join(sorted(choices))
                raise NotAllowed(
                    f"operator {self.name!r} is not allowed to `{lacking}`",
                    "whoever manages operators can add one that is: `hermes-nodes operator add --help`",
                )

    def require_holding(self, verbs: Iterable[str], expires_at: str | None) -> None:
        """Raises NotAllowed if that is more than this operator itself has: nobody hands on more."""
        more = [verb for verb in verbs if verb not in self.verbs]
        if more:
            raise NotAllowed(f"operator {self.name!r} can't hand on {', '.join(more)}, which it lacks")
        if self.expires_at is not None and (expires_at is None or expires_at > self.expires_at):
            raise NotAllowed(
                f"operator {self.name!r} ends at {self.expires_at}, and what it adds may not last longer",
                "give --expires with a shorter time",
            )


def check_verbs(verbs: Iterable[str], scope: Scope) -> tuple[str, ...]:
    """The verbs in their usual order; raises UsageError for one that is none, or that needs all nodes."""
    wanted = set(verbs)
    unknown = sorted(wanted.difference(VERBS))
    if unknown or not wanted:
        raise UsageError(
            f"{unknown[0]!r} is nothing to be allowed" if unknown else "an operator needs a verb",
            f"the verbs are {', '.join(VERBS)}",
        )
    widening = sorted(wanted & UNSCOPED)
    if widening and not scope.is_everything:
        raise UsageError(
            f"{', '.join(widening)} can only be allowed on all nodes, as it could widen the scope",
            "leave out --nodes, or leave out these verbs",
        )
    return tuple(verb for verb in VERBS if verb in wanted)


# -- tokens ---------------------------------------------------------------------------------------


class Minted(NamedTuple):
    """A new operator's id and token, and what the store keeps of the token."""

    id: str
    token: str
    verifier: bytes


def mint() -> Minted:
    """The token holds the operator's id, by which it is found, and 256 random bits, which prove it."""
    operator_id, secret = str(uuid.uuid4()), secrets.token_urlsafe(32)
    return Minted(operator_id, f"{TOKEN_PREFIX}{operator_id}.{secret}", _verifier(secret))


def claimed_id(token: str) -> str:
    """The id of the operator that a token is said to be of; empty where it has not the form of one."""
    head, dot, _ = token.removeprefix(TOKEN_PREFIX).partition(".")
    return head if token.startswith(TOKEN_PREFIX) and dot and len(head) == _ID_CHARS else ""


def is_proof(token: str, verifier: bytes | None) -> bool:
    """Whether a token is the one that the verifier was made of; takes as long where there is none."""
    secret = token.rpartition(".")[2]
    same = hmac.compare_digest(_verifier(secret), verifier or _NOBODY)
    return same and verifier is not None


def _verifier(secret: str) -> bytes:
    # A plain hash is enough for 256 random bits: there is nothing to guess.
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
