"""TARGET: which nodes a text names. Names and globs with commas, ``label:K=V``, ``all``."""

import fnmatch
from collections.abc import Iterable, Mapping
from typing import Protocol, TypeVar

ALL = "all"
LABEL = "label:"
_GLOB_SIGNS = frozenset("*?[")


class Named(Protocol):
    """What a TARGET tells nodes apart by."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def labels(self) -> Mapping[str, str]: ...


_Named = TypeVar("_Named", bound=Named)


def is_pattern(part: str) -> bool:
    """Whether a part of a TARGET may name any number of nodes, and others tomorrow."""
    return part == ALL or part.startswith(LABEL) or not _GLOB_SIGNS.isdisjoint(part)


def matches(node: Named, part: str) -> bool:
    """Whether a part of a TARGET names this node; for a pattern, whatever the node's state."""
    if part == ALL:
        return True
    if part.startswith(LABEL):
        key, equals, value = part.removeprefix(LABEL).partition("=")
        return bool(equals) and node.labels.get(key) == value
    if is_pattern(part):
        return fnmatch.fnmatchcase(node.name, part)
    return node.name == part


def named_exactly(nodes: Iterable[_Named], target: str) -> list[_Named]:
    """Those whose name is the whole text as written, which always wins."""
    return [node for node in nodes if node.name == target]
