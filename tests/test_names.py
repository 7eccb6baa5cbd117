"""Names and labels: which are taken, and what is said of the others."""

import pytest

from hermes_nodes.errors import UsageError
from hermes_nodes.names import check_label, check_name


@pytest.mark.parametrize("name", ["a", "web-1", "7.x_Y-", "a" * 64, "ALL"])
def test_good_names_come_back(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "all", "-a", ".a", "a/b", "a b", "a\n", "é", "a,b", "a*", "a" * 65])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError) as failure:
        check_name(name)
    assert failure.value.hint


@pytest.mark.parametrize(
    ("text", "label"),
    [("role=web", ("role", "web")), ("a/b.c=x=y z", ("a/b.c", "x=y z")), ("k=", ("k", ""))],
)
def test_good_labels_are_split(text: str, label: tuple[str, str]) -> None:
    assert check_label(text) == label


@pytest.mark.parametrize(
    "text", ["", "role", "=web", "-k=v", "k=a,b", "k=a\nb", "k=\x1b[1m", "k=" + "v" * 64, "k" * 64 + "=v"]
)
def test_bad_labels_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="can't be a label"):
        check_label(text)
