"""Who is connected: replacement, identity, call rates, and the sweep."""

import pytest

from hermes_nodes.errors import RateLimited
from hermes_nodes.older.sessions import OlderSession
from hermes_nodes.protocol.codec import PlainCodec
from hermes_nodes.registry import NodeRegistry
from tests.protocol.support import NAME, TOKEN, HandmadeNode, converse, gateway

LIFE = {"ping_after": 30.0, "dead_after": 60.0}


def session(*, pairing_id: str = "pairing") -> OlderSession:
    """A session of the one node that tests know."""
    node = HandmadeNode()
    accepted = converse(gateway(TOKEN), node.plain_hello(), node.auth)
    assert isinstance(accepted.codec, PlainCodec)
    return OlderSession(
        accepted,
        codec=accepted.codec,
        pairing_id=pairing_id,
        remote_addr="192.0.2.1",
        limit=100,
        guard=True,
    )


# Who is connected


def test_a_node_that_registers_is_connected_until_it_unregisters() -> None:
    registry, one = NodeRegistry(), session()
    assert registry.get(NAME) is None
    assert registry.register(one) is None
    assert registry.get(NAME) is one
    assert (list(registry), len(registry)) == ([one], 1)
    registry.unregister(one)
    assert registry.get(NAME) is None
    assert (list(registry), len(registry)) == ([], 0)


def test_a_newer_connection_wins_and_the_older_is_given_to_be_closed() -> None:
    registry, old, new = NodeRegistry(), session(), session()
    registry.register(old)
    assert registry.register(new) is old
    assert registry.get(NAME) is new
    assert len(registry) == 1


def test_a_session_that_was_replaced_does_not_unregister_its_successor() -> None:
    registry, old, new = NodeRegistry(), session(), session()
    registry.register(old)
    registry.register(new)
    registry.unregister(old)
    assert registry.get(NAME) is new
    registry.unregister(new)
    registry.unregister(new)
    assert registry.get(NAME) is None


def test_how_often_a_pairing_was_replaced_is_counted() -> None:
    registry = NodeRegistry()
    first = session()
    registry.register(first)
    assert registry.replaced == {}
    registry.register(session())
    registry.register(session())
    assert registry.replaced == {"pairing": 2}


def test_a_connection_after_the_last_has_gone_replaces_nothing() -> None:
    registry, old = NodeRegistry(), session()
    registry.register(old)
    registry.unregister(old)
    assert registry.register(session()) is None
    assert registry.replaced == {}


def test_sessions_may_go_while_they_are_walked_through() -> None:
    registry = NodeRegistry()
    registry.register(session())
    for one in registry:
        registry.unregister(one)
    assert len(registry) == 0


# How often they are called


def test_one_call_more_than_the_limit_is_refused_with_the_time_to_wait() -> None:
    registry, one = NodeRegistry(rate_limit=3), session()
    for _ in range(3):
        registry.admit_call(one, 10.0)
    with pytest.raises(RateLimited) as refusal:
        registry.admit_call(one, 10.25)
    assert refusal.value.retry_after_ms == 751
    assert "751 ms" in refusal.value.hint
    registry.admit_call(one, 10.25 + 0.751)


def test_a_hundred_calls_a_second_are_admitted_unless_it_is_set_otherwise() -> None:
    registry, one = NodeRegistry(), session()
    for _ in range(100):
        registry.admit_call(one, 10.0)
    with pytest.raises(RateLimited, match="100 calls a second"):
        registry.admit_call(one, 10.0)


def test_a_changed_limit_holds_for_those_who_are_busy_as_well() -> None:
    registry, one = NodeRegistry(rate_limit=3), session()
    registry.register(one)
    registry.admit_call(one, 10.0)
    registry.change_rate_limit(1)
    with pytest.raises(RateLimited, match="1 calls a second"):
        registry.admit_call(one, 10.1)
    assert one.rate_limit_notice().limit_per_second == 1


def test_calls_are_counted_for_the_pairing_whatever_its_connection() -> None:
    registry = NodeRegistry(rate_limit=2)
    registry.admit_call(session(), 10.0)
    registry.admit_call(session(), 10.0)
    with pytest.raises(RateLimited):
        registry.admit_call(session(), 10.0)
    registry.admit_call(session(pairing_id="another"), 10.0)


# The sweep


def test_a_sweep_looks_after_silent_sessions() -> None:
    registry, one = NodeRegistry(), session()
    registry.register(one)
    registry.sweep(one.last_heard + 29, **LIFE)
    assert one.next_frame() is None
    registry.sweep(one.last_heard + 30, **LIFE)
    frame = one.next_frame()
    assert frame is not None
    assert b'"ping"' in frame.data
    registry.sweep(one.last_heard + 60, **LIFE)
    assert one.end_reason == "silent"


def test_a_sweep_forgets_no_call_rate_that_still_counts() -> None:
    registry, one = NodeRegistry(rate_limit=1), session()
    registry.admit_call(one, 10.0)
    registry.sweep(10.5, **LIFE)
    with pytest.raises(RateLimited):
        registry.admit_call(one, 10.5)
    registry.sweep(11.0, **LIFE)
    assert registry._call_rates == {}
    registry.admit_call(one, 11.0)
