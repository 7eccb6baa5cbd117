"""Which of the words behind `cp` are on a node."""

import pytest

from hermes_nodes.copying.spots import Spot, parse


@pytest.mark.parametrize(
    ("text", "node", "path"),
    [
        ("laptop:notes", "laptop", "notes"),
        ("laptop:/srv/a:b", "laptop", "/srv/a:b"),
        ("laptop:", "laptop", "."),
        ("notes", None, "notes"),
        ("./laptop:notes", None, "./laptop:notes"),
        ("/srv/laptop:notes", None, "/srv/laptop:notes"),
        (":notes", None, ":notes"),
        ("-:notes", "-", "notes"),
    ],
)
def test_what_has_a_colon_before_any_slash_is_on_a_node(text: str, node: str | None, path: str) -> None:
    assert parse(text) == Spot(node, path)


@pytest.mark.parametrize(
    ("path", "other", "is_within"),
    [
        ("a/b", "a", True),
        ("./a//b", "a/", True),
        ("a/./b", "./a", True),
        ("a", "a", True),
        ("b", ".", True),
        ("ab", "a", False),
        ("a", "a/b", False),
        ("a/../b", "a", False),
        ("/a/b", "a", False),
    ],
)
def test_a_path_within_another_is_told_by_its_spelling(path: str, other: str, is_within: bool) -> None:
    assert Spot("laptop", path).is_within(Spot("laptop", other)) == is_within


@pytest.mark.parametrize(
    ("path", "name", "parent"),
    [
        ("/srv/data", "data", "/srv"),
        ("/srv/data/", "data", "/srv"),
        ("data", "data", "."),
        ("/data", "data", "/"),
        ("a/../b", "b", "a/.."),
        ("..", "", "."),
        (".", "", "."),
        ("/", "", "."),
        ("~", "", "."),
        ("~/x", "x", "~"),
    ],
)
def test_a_path_has_a_name_and_a_parent(path: str, name: str, parent: str) -> None:
    assert (Spot("laptop", path).name, Spot("laptop", path).parent) == (name, Spot("laptop", parent))
