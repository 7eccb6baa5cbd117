"""How a node makes sure that it talks to its gateway: a CA of one's own, or one certificate."""

import hashlib
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.harness import GatewayProcess, Home, until


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def encrypted(own: Home, authority: Authority) -> Iterator[GatewayProcess]:
    with own.gateway(**authority.environ) as gateway:
        yield gateway


def url(gateway: GatewayProcess) -> str:
    return f"wss://127.0.0.1:{gateway.port}"


def fingerprint(authority: Authority) -> str:
    certificate = ssl.PEM_cert_to_DER_cert(authority.certificate.read_text())
    return hashlib.sha256(certificate).hexdigest()


@pytest.mark.parametrize("way", ["ca", "pin"])
def test_a_node_that_can_tell_its_gateway_connects(
    own: Home, encrypted: GatewayProcess, authority: Authority, way: str
) -> None:
    option = {"ca": ["--ca-cert", str(authority.ca)], "pin": ["--pin", fingerprint(authority)]}[way]
    config = own.folder / way / "config.toml"
    token = own.pair(way)
    own.ok(
        "node", "join", url(encrypted), "--name", way, *option, stdin=token, HERMES_NODE_CONFIG=str(config)
    )
    with own.rows(action="connect", node=way) as rows, own.node_run(config.parent):
        next(rows)
        assert own.ok("exec", way, "echo over TLS") == "over TLS\n"


@pytest.mark.parametrize("way", ["nothing", "another pin"])
async def test_a_node_that_can_not_tell_its_gateway_shows_it_nothing(
    own: Home, encrypted: GatewayProcess, way: str
) -> None:
    option = {"nothing": [], "another pin": ["--pin", "ab" * 32]}[way]
    name = way.replace(" ", "-")
    folder = own.folder / name
    environ = {"HERMES_NODE_CONFIG": str(folder / "config.toml")}
    own.ok("node", "join", url(encrypted), "--name", name, *option, stdin=own.pair(name), **environ)
    with own.node_run(folder):
        log = folder / "run.log"
        await until(lambda: "not connected:" in _text(log))
    assert not own.trail(node=name, action="connect")
    assert not own.trail(node=name, action="auth")


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""
