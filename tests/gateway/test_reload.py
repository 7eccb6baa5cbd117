"""Settings read again while the gateway runs, and changes made while a disk takes nothing."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple, NoReturn

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from hermes_nodes import config
from hermes_nodes.client import ExecResult as Ended
from hermes_nodes.errors import AuditUnwritable, ListenFailed, RateLimited, SettingsError, Unavailable
from hermes_nodes.gateway import Gateway
from hermes_nodes.protocol.handshake import Refused
from hermes_nodes.protocol.messages import Close, ExecResult
from hermes_nodes.tokens import TokenStore
from tests.gateway.support import logged_in, pair, start_exec
from tests.gateway.test_calls import requested
from tests.harness import Home, ScriptedNode, control_request, scripted_node
from tests.support import PATIENCE, SOON

# -- certificates -------------------------------------------------------------------------------------


class Pair(NamedTuple):
    """A self-signed certificate with its key, both PEM."""

    certificate: str
    key: str


def self_signed() -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Pair(certificate.public_bytes(Encoding.PEM).decode(), pem.decode())


class TlsHome:
    """A home whose gateway has a certificate, which may be replaced as a renewal does."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.certificate = home.folder / "cert.pem"
        self.key = home.folder / "key.pem"
        self.environ = {
            "HERMES_NODES_TLS_CERT_PATH": str(self.certificate),
            "HERMES_NODES_TLS_KEY_PATH": str(self.key),
        }

    def install(self, pair: Pair) -> None:
        self.certificate.write_text(pair.certificate)
        self.key.write_text(pair.key)

    def settings(self) -> config.Settings:
        return config.load({"port": "0"}, {**self.home.environ, **self.environ})


@asynccontextmanager
async def tls_gateway(home: Home, pair: Pair) -> AsyncIterator[tuple[TlsHome, Gateway]]:
    tls = TlsHome(home)
    tls.install(pair)
    async with home.gateway_here(**tls.environ) as gateway:
        yield tls, gateway


async def shown(gateway: Gateway) -> str:
    """The certificate that the next connection gets, PEM."""
    return await asyncio.to_thread(
        ssl.get_server_certificate, (gateway.host, gateway.port), timeout=PATIENCE
    )


async def test_a_new_certificate_with_the_old_key_changes_nothing(home: Home) -> None:
    old, new = self_signed(), self_signed()
    async with tls_gateway(home, old) as (tls, gateway):
        tls.certificate.write_text(new.certificate)
        with pytest.raises(SettingsError, match="certificate"):
            gateway.reload(tls.settings())
        assert await shown(gateway) == old.certificate
    assert home.trail(action="settings") == []


async def test_a_new_certificate_with_its_key_is_shown_from_the_next_connection_on(home: Home) -> None:
    old, new = self_signed(), self_signed()
    async with tls_gateway(home, old) as (tls, gateway):
        assert await shown(gateway) == old.certificate
        tls.install(new)
        assert gateway.reload(tls.settings()) == []
        assert await shown(gateway) == new.certificate


async def test_a_renewal_that_failed_first_is_taken_over_once_it_is_whole(home: Home) -> None:
    old, new = self_signed(), self_signed()
    async with tls_gateway(home, old) as (tls, gateway):
        tls.certificate.write_text(new.certificate)
        with pytest.raises(SettingsError):
            gateway.reload(tls.settings())
        tls.install(new)
        gateway.reload(tls.settings())
        assert await shown(gateway) == new.certificate


async def test_a_port_does_not_change_between_plain_and_tls_before_the_next_start(home: Home) -> None:
    tls = TlsHome(home)
    tls.install(self_signed())
    async with home.gateway_here() as gateway:
        plain = gateway.url
        assert gateway.reload(tls.settings()) == ["tls_cert_path"]
        assert gateway.url == plain
    async with home.gateway_here(**tls.environ) as gateway:
        encrypted = gateway.url
        assert gateway.reload(home.settings) == ["tls_cert_path"]
        assert gateway.url == encrypted


# -- settings -----------------------------------------------------------------------------------------


async def test_a_new_rate_limit_counts_for_the_calls_that_follow(home: Home, gateway: Gateway) -> None:
    settings = config.load({"port": "0"}, {**home.environ, "HERMES_NODES_RATE_LIMIT": "1"})
    async with logged_in(home, gateway) as node:
        assert gateway.reload(settings) == []
        calls = [start_exec(home, "laptop") for _ in range(2)]
        await node.send(ExecResult(id=(await requested(node)).id, status="ok"))
        ends = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(end) for end in ends} == {Ended, RateLimited}


async def test_what_only_a_start_can_change_is_named(home: Home, gateway: Gateway) -> None:
    settings = config.load({"port": "7999"}, {**home.environ, "HERMES_NODES_MAX_CONNECTIONS": "5"})
    before = gateway.port
    assert gateway.reload(settings) == ["port", "max_connections"]
    assert (await asyncio.to_thread(home.client.status))["port"] == before


async def test_settings_that_were_read_again_are_in_the_trail(home: Home, gateway: Gateway) -> None:
    gateway.reload(home.settings)
    (row,) = home.trail(action="settings")
    assert row["status"] == "ok"
    assert str(row["actor"]).startswith("local:")


async def test_a_file_in_the_place_of_the_control_socket_is_left_alone(home: Home) -> None:
    path = home.folder / "precious"
    path.write_text("content")
    with pytest.raises(ListenFailed, match="not a socket"):
        async with home.gateway_here(HERMES_NODES_CONTROL_SOCKET=str(path)):
            pass
    assert path.read_text() == "content"


# -- disks that take nothing --------------------------------------------------------------------------


async def assert_shut_out(gateway: Gateway, node: ScriptedNode, name: str, token: str) -> None:
    """The live session is closed, and its token opens no other."""
    async with asyncio.timeout(SOON):
        assert await node.closed() == Close.REVOKED
    assert gateway.registry.get(name) is None
    async with scripted_node(gateway.url) as again:
        with pytest.raises(Refused, match="invalid_token"):
            await again.log_in(name, token)


@pytest.fixture
def read_only_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store in which no pairing can be ended, as on a full disk."""

    def revoke(*_: object, **__: object) -> NoReturn:
        raise Unavailable("the disk is full")

    monkeypatch.setattr(TokenStore, "revoke", revoke)


async def test_a_revocation_that_can_not_be_saved_takes_effect_and_says_so(
    home: Home, gateway: Gateway, read_only_store: None
) -> None:
    token = await pair(home, "laptop")
    async with scripted_node(gateway.url) as node:
        await node.log_in("laptop", token)
        status, _, content = await control_request(gateway.control_socket, "DELETE /v1/pairings/laptop")
        assert status == 503
        assert b"could not be saved: the disk is full" in content
        assert b"revoke it again" in content
        await assert_shut_out(gateway, node, "laptop", token)


@contextmanager
def unwritable_trail(home: Home) -> Iterator[Path]:
    """The trail's folder is a file while the block runs."""
    logs = home.path / "logs"
    aside = logs.rename(home.path / "logs-aside")
    logs.write_text("")
    try:
        yield logs
    finally:
        logs.unlink()
        aside.rename(logs)


async def test_no_pairing_is_made_that_can_not_be_written_down(home: Home) -> None:
    async with home.gateway_here():
        with unwritable_trail(home), pytest.raises(AuditUnwritable):
            await pair(home, "laptop")
        assert await asyncio.to_thread(home.client.nodes, everything=True) == []
    # Nor is it one that only the store knows of.
    async with home.gateway_here():
        assert await asyncio.to_thread(home.client.nodes, everything=True) == []
        await pair(home, "laptop")
    assert [row["node"] for row in home.trail(action="pair")] == ["laptop"]


async def test_a_revocation_that_can_not_be_written_down_takes_effect_all_the_same(
    home: Home, gateway: Gateway
) -> None:
    token = await pair(home, "laptop")
    async with scripted_node(gateway.url) as node:
        await node.log_in("laptop", token)
        with unwritable_trail(home):
            with pytest.raises(AuditUnwritable):
                await asyncio.to_thread(home.client.revoke, "laptop")
            await assert_shut_out(gateway, node, "laptop", token)
    (view,) = await asyncio.to_thread(home.client.nodes, everything=True)
    assert view["state"] == "revoked"
