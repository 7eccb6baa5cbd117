"""Operators over the network: their tokens, and what they type."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from hermes_nodes.client import Client
from tests.harness import Background, GatewayProcess, Home

#: A gateway with these listens on plain loopback, on a port that is free.
LOOPBACK = {"HERMES_NODES_CONTROL_LISTEN": "127.0.0.1:0"}


class Remote:
    """Somebody who has an operator's token, and nothing of the gateway's home."""

    def __init__(self, home: Home, gateway: GatewayProcess, token: str, **environ: str) -> None:
        self._home = home
        self.token = token
        self.environ = {
            "HERMES_HOME": str(home.folder / "elsewhere"),
            "HERMES_NODES_GATEWAY": gateway.control_url,
            "HERMES_NODES_OPERATOR_TOKEN": token,
            **environ,
        }

    def run(self, *arguments: str, stdin: str | bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return self._home.run(*arguments, stdin=stdin, **self.environ)

    def ok(self, *arguments: str, stdin: str | bytes = b"") -> str:
        return self._home.ok(*arguments, stdin=stdin, **self.environ)

    def start(self, *arguments: str) -> Background:
        return self._home.start(*arguments, **self.environ)

    @property
    def client(self) -> Client:
        return Client(environ={**os.environ, **self.environ})


def add_operator(home: Home, name: str, *options: str) -> str:
    """A new operator's token."""
    return home.ok("operator", "add", name, *options).strip()


@contextmanager
def operator(home: Home, gateway: GatewayProcess, name: str, *options: str) -> Iterator[Remote]:
    """An operator for the time of the block."""
    remote = Remote(home, gateway, add_operator(home, name, *options))
    try:
        yield remote
    finally:
        home.run("operator", "remove", name)
