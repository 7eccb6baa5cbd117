"""The exception tree: every class has its numbers, builds its sentence, and survives the wire."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from hermes_nodes import errors
from hermes_nodes.errors import HermesNodesError, from_wire

#: CLI.md: every exit code of our own.
EXIT_CODES = {1, 2, 66, 69, 73, 75, 77, 78, 124, 130}
#: CLI.md: how a call can end; the first four are for commands that ran.
CALL_STATUSES = {
    "timeout",
    "cancelled",
    "unknown_node",
    "not_connected",
    "node_disconnected",
    "unsupported",
    "denied",
    "rate_limited",
    "busy",
    "failed",
}

EXAMPLES: dict[type[HermesNodesError], HermesNodesError] = {
    type(example): example
    for example in (
        errors.UnknownNode("web"),
        errors.UnknownOperator("ci"),
        errors.NoToken(),
        errors.GatewayNotRunning("/run/gateway.sock"),
        errors.GatewayNotAnswering("/run/gateway.sock"),
        errors.HomeLocked("/run/lock", "a gateway (pid 7)", by_gateway=True),
        errors.AuditUnwritable(Path("/run/audit.log"), OSError(28, "No space left on device")),
        errors.NodeNotConnected("web", None),
        errors.Unsupported("web", "terminals"),
        errors.AlreadyPaired("web"),
        errors.RateLimited("web", 100, 250),
        errors.Busy("web", 64),
        errors.NodeDisconnected("web"),
        errors.GatewayLost(),
        errors.ForeignUser(),
        errors.ProtocolViolation("a frame too many"),
    )
}


def tree(root: type[HermesNodesError] = HermesNodesError) -> Iterator[type[HermesNodesError]]:
    """What errors.py holds; other modules refine some of it for themselves."""
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from tree(child)


def example(kind: type[HermesNodesError]) -> HermesNodesError:
    return EXAMPLES[kind] if kind in EXAMPLES else kind("what is wrong", "what to do")


@pytest.mark.parametrize("kind", list(tree()), ids=lambda kind: kind.__name__)
def test_an_error_goes_over_the_wire_and_comes_out_the_same(kind: type[HermesNodesError]) -> None:
    sent = example(kind)
    received = from_wire(json.loads(json.dumps(sent.to_wire())))
    assert type(received) is kind
    assert (received.message, received.hint) == (sent.message, sent.hint)
    assert str(received) == received.message
    assert (received.exit_status, received.http_status) == (sent.exit_status, sent.http_status)
    assert received.to_wire() == sent.to_wire()
    # What the wire does not carry is there all the same, so that reading it is no AttributeError.
    assert all(hasattr(received, name) for name in vars(sent))


@pytest.mark.parametrize("kind", list(tree()), ids=lambda kind: kind.__name__)
def test_every_class_has_the_numbers_of_the_contract(kind: type[HermesNodesError]) -> None:
    assert kind.exit_status in EXIT_CODES
    assert kind.call_status in CALL_STATUSES
    assert 400 <= kind.http_status < 600


def test_codes_are_unique_so_that_each_comes_out_as_its_class() -> None:
    kinds = list(tree())
    assert len({kind.code for kind in kinds}) == len(kinds)


def test_the_drawing_in_the_docstring_shows_every_class() -> None:
    drawn = errors.__doc__ or ""
    assert [kind.__name__ for kind in tree() if kind.__name__ not in drawn] == []


@pytest.mark.parametrize(
    ("kind", "exit_status"),
    [
        (errors.UsageError, 2),
        (errors.UnknownNode, 66),
        (errors.FileMissing, 66),
        (errors.GatewayNotRunning, 69),
        (errors.GatewayNotAnswering, 69),
        (errors.HomeLocked, 69),
        (errors.NodeNotConnected, 69),
        (errors.Unsupported, 69),
        (errors.AlreadyPaired, 73),
        (errors.FileAlreadyThere, 73),
        (errors.RateLimited, 75),
        (errors.Busy, 75),
        (errors.NodeDisconnected, 75),
        (errors.GatewayLost, 75),
        (errors.PathNotAllowed, 77),
        (errors.FilePermission, 77),
        (errors.ForeignUser, 77),
        (errors.BadKey, 77),
        (errors.SettingsError, 78),
        (errors.CallTimeout, 124),
        (errors.CallCancelled, 130),
    ],
)
def test_exit_codes_are_those_of_the_contract(kind: type[HermesNodesError], exit_status: int) -> None:
    assert kind.exit_status == exit_status


@pytest.mark.parametrize("kind", list(EXAMPLES), ids=lambda kind: kind.__name__)
def test_errors_that_build_their_sentence_have_one_and_a_hint(kind: type[HermesNodesError]) -> None:
    assert EXAMPLES[kind].message
    assert EXAMPLES[kind].hint


@pytest.mark.parametrize(
    "wire", [{}, {"code": "from_the_future", "message": "m", "hint": "h"}, {"code": 5}]
)
def test_an_unknown_code_becomes_the_base_class(wire: dict[str, object]) -> None:
    error = from_wire(wire)
    assert type(error) is HermesNodesError
    assert error.message == wire.get("message", "the gateway gave no reason")
    assert error.hint == wire.get("hint", "")
