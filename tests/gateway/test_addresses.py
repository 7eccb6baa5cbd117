"""Where a connection comes from, as far as anybody can be believed."""

import asyncio
from typing import cast

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from hermes_nodes.gateway.addresses import Proxies, network_of


class Peer:
    """The part of a transport that says who is at its other end."""

    def __init__(self, address: str) -> None:
        self._address = address

    def get_extra_info(self, name: str) -> tuple[str, int] | None:
        return (self._address, 40_000) if name == "peername" else None


@pytest.mark.parametrize(
    ("peer", "lines", "address"),
    [
        ("127.0.0.5", [], "127.0.0.5"),
        ("127.0.0.5", ["10.1.1.1"], "10.1.1.1"),
        ("127.0.0.5", ["6.6.6.6, 10.1.1.1"], "10.1.1.1"),
        ("127.0.0.5", ["6.6.6.6", "10.1.1.1"], "10.1.1.1"),
        ("127.0.0.5", ["10.1.1.1, 127.0.0.5"], "10.1.1.1"),
        ("127.0.0.5", ["no address"], "127.0.0.5"),
        ("127.0.0.9", ["10.1.1.1"], "127.0.0.9"),
    ],
)
def test_the_nearest_hop_that_no_trusted_proxy_is_counts(peer: str, lines: list[str], address: str) -> None:
    headers = CIMultiDictProxy(CIMultiDict([("X-Forwarded-For", line) for line in lines]))
    transport = cast("asyncio.Transport", Peer(peer))
    assert Proxies(["127.0.0.5"]).address(headers, transport) == address


def test_of_ipv6_a_stranger_has_a_whole_network() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff") == "2001:db8::/64"
    assert network_of("2001:db8:0:1::1") != network_of("2001:db8::1")
    assert network_of("10.1.1.1") == "10.1.1.1"
    assert network_of("unknown") == "unknown"
