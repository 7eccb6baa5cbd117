"""A gateway that is there and does nothing: whoever interrupts a call does not wait long for it."""

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from hermes_nodes import call_connection
from hermes_nodes.errors import CallCancelled, GatewayLost
from tests.harness import GatewayProcess, Home

#: More than all buffers on the way hold.
PIECES = [bytes(1 << 20)] * 64


class Freezer:
    """Stops the gateway, and interrupts the call if that is wanted."""

    def __init__(self, gateway: GatewayProcess, told: int | None) -> None:
        self._gateway = gateway
        self._told = told

    def freeze(self, *_: object) -> None:
        self._gateway.process.send_signal(signal.SIGSTOP)
        if self._told is not None:
            os.write(self._told, b"!")


Call = Callable[[Home, Freezer, int], object]


def before_it_begins(home: Home, freezer: Freezer, interrupt: int) -> None:
    freezer.freeze()
    home.client.call({"call": "exec", "node": "laptop", "command": "true"}, print, interrupt=interrupt)


def in_its_middle(home: Home, freezer: Freezer, interrupt: int) -> None:
    body: call_connection.Json = {"call": "exec", "node": "laptop", "command": "echo; exec sleep 1000"}
    home.client.call(body, freezer.freeze, interrupt=interrupt)


def in_an_upload(home: Home, freezer: Freezer, interrupt: int) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"first"
        freezer.freeze()
        yield from PIECES

    home.client.write("laptop", f"{home.folder}/frozen", pieces(), interrupt=interrupt)


@pytest.mark.parametrize("call", [before_it_begins, in_its_middle, in_an_upload])
@pytest.mark.parametrize("is_interrupted", [True, False], ids=["interrupt", "silence"])
@pytest.mark.usefixtures("node")
def test_its_silence_ends_a_call(
    home: Home,
    gateway: GatewayProcess,
    monkeypatch: pytest.MonkeyPatch,
    call: Call,
    is_interrupted: bool,
) -> None:
    # The other one would take longer than a test may.
    monkeypatch.setattr(call_connection, "SILENCE_SECONDS", 600.0 if is_interrupted else 0.5)
    monkeypatch.setattr(call_connection, "INTERRUPTED_SECONDS", 0.5 if is_interrupted else 600.0)
    interrupt, told = os.pipe()
    try:
        with pytest.raises(CallCancelled if is_interrupted else GatewayLost) as caught:
            call(home, Freezer(gateway, told if is_interrupted else None), interrupt)
    finally:
        gateway.process.send_signal(signal.SIGCONT)
        os.close(interrupt)
        os.close(told)
    assert not is_interrupted or "the gateway does not answer" in caught.value.message
