"""TARGET: which nodes a text names."""

from collections.abc import Mapping
from typing import NamedTuple

import pytest

from hermes_nodes.targets import is_pattern, matches, named_exactly


class Node(NamedTuple):
    name: str
    labels: Mapping[str, str] = {}
    id: str = "1"


@pytest.mark.parametrize(
    ("part", "pattern"),
    [("web-1", False), ("all", True), ("ALL", False), ("web-*", True), ("web-?", True), ("web-[12]", True),
     ("label:a=b", True), ("label", False), ("", False)],
)  # fmt: skip
def test_a_pattern_is_told_by_how_it_is_written(part: str, pattern: bool) -> None:
    assert is_pattern(part) is pattern


@pytest.mark.parametrize(
    ("part", "matching"),
    [("all", True), ("web-1", True), ("web-2", False), ("WEB-1", False), ("web-*", True), ("*", True),
     ("web-[0-3]", True), ("web-[!1]", False), ("w", False), ("label:role=web", True),
     ("label:role=", False), ("label:role", False), ("label:", False),
     ("label:none=", False), ("label:eq=a=b", True)],
)  # fmt: skip
def test_a_part_names_a_node_or_does_not(part: str, matching: bool) -> None:
    assert matches(Node("web-1", {"role": "web", "eq": "a=b"}), part) is matching


def test_the_whole_text_may_be_a_name() -> None:
    odd = Node("a,b")
    assert named_exactly([odd, Node("a")], "a,b") == [odd]
    assert named_exactly([odd], "a") == []
