"""Where a connection comes from: its peer, or whom a trusted proxy says that it speaks for."""

import asyncio
import ipaddress
from collections.abc import Iterable
from contextlib import suppress

from multidict import CIMultiDictProxy


class Proxies:
    """The proxies whose `X-Forwarded-For` is believed, given as addresses or networks."""

    def __init__(self, trusted: Iterable[str]) -> None:
        self._trusted = [ipaddress.ip_network(one, strict=False) for one in trusted]

    def address(self, headers: CIMultiDictProxy[str], transport: asyncio.Transport) -> str:
        """Whom a request is from: the nearest hop that is not a trusted proxy."""
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if peer else "unknown"
        # Each proxy may add to the line that it was given, or add a line of its own.
        forwarded = ",".join(headers.getall("X-Forwarded-For", ()))
        for hop in reversed([hop.strip() for hop in forwarded.split(",") if hop.strip()]):
            if not self.trusts(address) or not is_ip(hop):
                break
            address = hop
        return address

    def trusts(self, address: str) -> bool:
        with suppress(ValueError):
            ip = ipaddress.ip_address(address)
            return any(ip in network for network in self._trusted)
        return False


def network_of(address: str) -> str:
    """What one stranger may have all addresses of: of IPv6 a /64 (RFC 6177), else the address itself."""
    with suppress(ValueError):
        ip = ipaddress.ip_address(address)
        if ip.version == 6 and not ip.ipv4_mapped:  # noqa: PLR2004 - IPv6
            return str(ipaddress.ip_network((int(ip) >> 64 << 64, 64)))
    return address


def is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_loopback_peer(transport: asyncio.Transport) -> bool:
    """Whether the other end is on this machine, such as a reverse proxy."""
    peer = transport.get_extra_info("peername")
    return bool(peer) and is_ip(str(peer[0])) and ipaddress.ip_address(str(peer[0])).is_loopback
