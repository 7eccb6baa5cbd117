"""What an operator may do, decided from its record alone."""

from collections.abc import Mapping
from typing import NamedTuple

import pytest

from hermes_nodes.errors import NotAllowed, UnknownNode, UsageError
from hermes_nodes.operators import (
    UNSCOPED,
    VERBS,
    Operator,
    Scope,
    check_verbs,
    claimed_id,
    is_proof,
    make_scope,
    mint,
)

EARLY, NOON, LATE = (f"2030-01-01T{hour}:00:00.000Z" for hour in ("06", "12", "18"))
ALL = Scope(("all",))


class Node(NamedTuple):
    id: str
    name: str
    labels: Mapping[str, str] = {}


WEB, DATABASE = Node("1", "web-1", {"role": "web"}), Node("2", "db", {"role": "db"})
NODES = [WEB, DATABASE]


def operator(*verbs: str, scope: Scope = ALL, expires_at: str | None = None) -> Operator:
    return Operator("id", "ci", verbs, scope, EARLY, "local:test", expires_at)


@pytest.mark.parametrize(
    ("target", "held"),
    [("all", {"web-1", "db"}), ("web-1", {"web-1"}), ("web-*", {"web-1"}), ("label:role=db", {"db"}),
     ("web-1,db", {"web-1", "db"}), ("label:role=db,web-?", {"web-1", "db"}), ("x*", set())],
)  # fmt: skip
def test_a_scope_holds_what_its_target_names(target: str, held: set[str]) -> None:
    scope = make_scope(target, NODES)
    assert {node.name for node in NODES if scope.holds(node)} == held
    assert set(str(scope).split(",")) == set(target.split(","))


def test_a_reused_name_is_not_in_the_scope_of_the_old_one() -> None:
    assert not make_scope("web-1", NODES).holds(Node("3", "web-1"))


def test_globs_and_labels_hold_what_comes_later() -> None:
    assert make_scope("web-*", NODES).holds(Node("3", "web-3"))
    assert make_scope("label:role=web", NODES).holds(Node("3", "new", {"role": "web"}))


def test_a_name_that_exists_as_written_wins_over_what_it_would_match() -> None:
    odd = Node("3", "web-*")
    scope = make_scope("web-*", [*NODES, odd])
    assert scope.holds(odd)
    assert not scope.holds(WEB)


@pytest.mark.parametrize("target", ["nobody", "web-1,nobody", "", "web-1,"])
def test_a_plain_name_that_is_not_paired_is_unknown(target: str) -> None:
    with pytest.raises(UnknownNode):
        make_scope(target, NODES)


@pytest.mark.parametrize("target", ["label:", "label:role", "label:=web"])
def test_half_a_label_is_none(target: str) -> None:
    with pytest.raises(UsageError, match="is not a label"):
        make_scope(target, NODES)


@pytest.mark.parametrize("verb", sorted(UNSCOPED))
@pytest.mark.parametrize("target", ["web-1", "*", "label:role=web"])
def test_no_grant_widens_itself(verb: str, target: str) -> None:
    scope = make_scope(target, NODES)
    with pytest.raises(UsageError, match="could widen the scope"):
        check_verbs([verb, "list"], scope)
    assert check_verbs([verb], ALL) == (verb,)


@pytest.mark.parametrize("verbs", [[], ["everything"], ["exec", ""], ["EXEC"]])
def test_what_is_no_verb_is_told_with_those_that_are(verbs: list[str]) -> None:
    with pytest.raises(UsageError) as refused:
        check_verbs(verbs, ALL)
    assert all(verb in str(refused.value.hint) for verb in VERBS)


def test_verbs_come_once_and_in_their_order() -> None:
    assert check_verbs(["exec", "list", "exec"], ALL) == ("list", "exec")


def test_one_verb_of_each_set_is_needed() -> None:
    needs = (frozenset({"exec"}), frozenset({"jobs", "cp"}))
    operator("exec", "cp").require(needs)
    for lacking in (("exec",), ("jobs", "cp"), ()):
        with pytest.raises(NotAllowed, match="is not allowed to"):
            operator(*lacking).require(needs)


@pytest.mark.parametrize(("now", "valid"), [(EARLY, True), (NOON, False), (LATE, False)])
def test_an_operator_ends_when_it_expires(now: str, valid: bool) -> None:
    assert operator(expires_at=NOON).is_valid(now) is valid


def test_nobody_hands_on_a_verb_that_it_lacks() -> None:
    operator("operate", "exec").require_holding(["exec"], None)
    with pytest.raises(NotAllowed, match="can't hand on pair"):
        operator("operate", "exec").require_holding(["exec", "pair"], None)


@pytest.mark.parametrize(("end", "good"), [(EARLY, True), (NOON, True), (LATE, False), (None, False)])
def test_nobody_hands_on_a_later_end_than_its_own(end: str | None, good: bool) -> None:
    giver = operator("operate", expires_at=NOON)
    if good:
        giver.require_holding([], end)
        return
    with pytest.raises(NotAllowed, match="may not last longer"):
        giver.require_holding([], end)


# -- tokens -------------------------------------------------------------------------------------------


def test_a_token_is_proved_by_its_verifier_alone() -> None:
    one, other = mint(), mint()
    assert is_proof(one.token, one.verifier)
    assert not is_proof(one.token, other.verifier)
    assert not is_proof(one.token, None)
    assert not is_proof(one.token, b"")
    assert claimed_id(one.token) == one.id


@pytest.mark.parametrize(
    "token", ["", "hno_", "hno_x.y", "x" * 36 + ".y", "hnt_" + "x" * 36 + ".y", "hno_\udc80"]
)
def test_what_has_not_the_form_of_a_token_names_nobody(token: str) -> None:
    assert claimed_id(token) == ""
    assert not is_proof(token, mint().verifier)
