"""A gateway that operators reach over the network, one node on it, and who asks."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from itertools import count
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from hermes_nodes.client import Client
from tests.harness import GatewayProcess, Home, NodeProcess
from tests.support import PATIENCE

Headers = Mapping[str, str]
NONE: Headers = {}
_numbers = count(1)


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Place:
    """What the tests of this folder share; each uses names of its own."""

    def __init__(self, home: Home, gateway: GatewayProcess, node: NodeProcess) -> None:
        self.home = home
        self.gateway = gateway
        self.node = node
        self.local = home.client
        self.url = str(self.local.status()["control_url"])

    def fresh(self, kind: str) -> str:
        """A name that no other test has."""
        return f"{kind}-{next(_numbers)}"

    def paired(self, name: str) -> str:
        """Pair a node; its token."""
        return str(self.local.pair(name)["token"])

    def token(
        self, *allow: str, nodes: str | None = None, name: str = "", expires_in: float | None = None
    ) -> str:
        """A new operator's token."""
        name = name or self.fresh("operator")
        added = self.local.add_operator(name, allow=allow, nodes=nodes, expires_in=expires_in)
        return str(added["token"])

    def operator(self, *allow: str, nodes: str | None = None, name: str = "") -> Client:
        """A new operator, who comes over the network."""
        return self.client(self.token(*allow, nodes=nodes, name=name))

    def client(self, token: str) -> Client:
        return Client(self.url, token=token, environ={})

    @contextmanager
    def asking(
        self, method: str, path: str, token: str = "", body: bytes = b"", *, headers: Headers = NONE
    ) -> Iterator[HTTPResponse]:
        """One request to the port of the operators, as any program might make it."""
        sent = {**headers, **({"Authorization": f"Bearer {token}"} if token else {})}
        http = HTTPConnection(urlsplit(self.url).netloc, timeout=PATIENCE)
        try:
            http.request(method, path, body, sent)
            yield http.getresponse()
        finally:
            http.close()

    def ask(
        self, method: str, path: str, token: str = "", body: bytes = b"", *, headers: Headers = NONE
    ) -> Answer:
        with self.asking(method, path, token, body, headers=headers) as response:
            return Answer(response.status, dict(response.getheaders()), response.read())


@contextmanager
def place(folder: Path, allow: Sequence[Path] = ()) -> Iterator[Place]:
    home = Home(folder)
    environ = {
        "HERMES_NODES_CONTROL_LISTEN": "127.0.0.1:0",
        # A peer may say its address, so that no lockout spreads from one test to another.
        "HERMES_NODES_TRUSTED_PROXIES": "127.0.0.1",
    }
    with (
        home.gateway("--log-level", "debug", **environ) as gateway,
        home.node(gateway, "web", allow=allow) as node,
    ):
        yield Place(home, gateway, node)
