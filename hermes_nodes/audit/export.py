"""The whole trail for another program: every row, old to new, told apart by whether it is of the chain."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from hermes_nodes.audit.chain import is_signed, place_of
from hermes_nodes.audit.rows import Filter
from hermes_nodes.audit.trail import Trail

#: Whether a line is of the chain; None where that can't be known.
Judge = Callable[[bytes], bool | None]


class Export(Trail):
    """A trail whose rows have ``chained`` besides: False is what no gateway with this key has written.

    That is a row from before the chain, or a line that somebody has added. Whether the rows of the chain
    are all there, and each in its place, is for `verify` to say.
    """

    def __init__(self, path: str | Path, match: Filter, judge: Judge) -> None:
        super().__init__(path, match)
        self._judge = judge

    def _decoded(self, line: bytes) -> dict[str, object] | None:
        row = super()._decoded(line)
        return None if row is None else {**row, "chained": self._judge(line)}


def by_key(key: bytes) -> Judge:
    return partial(_is_of_chain, key)


def by_nothing(_: bytes) -> None:
    """Without the key a line's own word is all there is, and anybody can write that."""


def _is_of_chain(key: bytes, line: bytes) -> bool:
    place = place_of(line)
    return place is not None and is_signed(key, line, place)
