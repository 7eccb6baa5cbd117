"""What a broken transfer leaves on its node, as both ends read it."""

import hashlib
import os

import pytest

from hermes_nodes.protocol.parts import TRAILER_BYTES, Held, held_by, part_name, trailer

HELD = Held(12, hashlib.sha256(b"twelve bytes").hexdigest())


def test_the_end_of_a_part_tells_what_it_holds() -> None:
    assert len(trailer(HELD)) == TRAILER_BYTES
    assert held_by(trailer(HELD), 12 + TRAILER_BYTES) == HELD


@pytest.mark.parametrize(
    ("end", "size"),
    [
        (trailer(HELD), 13 + TRAILER_BYTES),
        (trailer(HELD)[:-1] + b" ", 12 + TRAILER_BYTES),
        (trailer(HELD)[1:], 11 + TRAILER_BYTES),
        (b"twelve bytes", 12),
        (b"", 0),
    ],
)
def test_anything_else_is_no_part(end: bytes, size: int) -> None:
    assert held_by(end, size) is None


def test_a_part_is_hidden_beside_its_target() -> None:
    assert part_name("notes") == ".notes.hermes-part"


@pytest.mark.parametrize("target", ["x" * 255, "é" * 127, "\udcff" * 255])
def test_the_part_of_a_long_name_is_no_longer_than_a_name_may_be(target: str) -> None:
    name = part_name(target)
    assert len(os.fsencode(name)) <= 255
    assert name != part_name(target[:-1])
