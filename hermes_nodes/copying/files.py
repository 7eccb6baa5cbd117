"""One file from one place to another: resumed if wanted, compared by SHA-256, whole or not at all."""

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from hermes_nodes.copying.local import LocalPart, LocalSource, LocalTarget
from hermes_nodes.copying.nodes import Nodes, named
from hermes_nodes.copying.remote import NodeSource, NodeTarget
from hermes_nodes.errors import CallFailed, FileMissing
from hermes_nodes.protocol.parts import Held

if TYPE_CHECKING:
    from hashlib import _Hash


class Copied(NamedTuple):
    """``bytes_sent`` are those that went over the wire, of ``size_bytes`` in all."""

    size_bytes: int
    sha256: str
    bytes_sent: int


class _OtherContent(CallFailed):
    """What is there already is not the beginning of the source."""


def to_node(nodes: Nodes, source: LocalSource | NodeSource, target: NodeTarget, *, resume: bool) -> Copied:
    """To a node, from here or from another node; raises what it failed with, the target being as it was."""
    held = target.held() if resume else None
    if held is not None and held.size_bytes <= (source.size_bytes or 0):
        try:
            copied = nodes.patiently(lambda: _send(nodes, source, target, held))
        except (CallFailed, FileMissing):
            nodes.say(f"{target.shown!r}: can't go on from what is there: beginning anew")
        else:
            return copied
    return nodes.patiently(lambda: _send(nodes, source, target, None))


def from_node(nodes: Nodes, source: NodeSource, target: LocalTarget, *, resume: bool) -> Copied:
    """From a node to here; the same."""
    with target.opened(resume=resume) as part:
        nodes.progress.begin(source.shown, source.size_bytes)
        try:
            copied = _fetch(nodes, source, part)
            part.finish(source.perm)
        finally:
            nodes.progress.end()
        return copied


def _send(nodes: Nodes, source: LocalSource | NodeSource, target: NodeTarget, held: Held | None) -> Copied:
    nodes.progress.begin(source.shown, source.size_bytes)
    sent = 0
    try:
        with source.opened() as blocks:
            before = hashlib.sha256()
            rest = _skip(nodes, blocks, held, before)

            def content() -> Iterator[bytes | memoryview]:
                nonlocal sent
                for block in rest:
                    yield block
                    sent += len(block)
                    nodes.progress.advance(len(block))

            result = nodes.client.write(
                target.node,
                named(target.path),
                content(),
                perm=source.perm if target.takes_perm else None,
                size_bytes=source.size_bytes,
                offset=held.size_bytes if held else 0,
                before=before,
                root=None if target.root is None else named(target.root),
                interrupt=nodes.interrupt,
                note=nodes.say,
            )
    finally:
        nodes.progress.end()
    return Copied(result.size_bytes, result.sha256, sent)


def _skip(
    nodes: Nodes, blocks: Iterator[bytes] | Iterator[memoryview], held: Held | None, before: "_Hash"
) -> Iterator[bytes | memoryview]:
    """What lies behind that which is held; raises _OtherContent where it is not the source's beginning."""
    left = held.size_bytes if held else 0
    first: bytes | memoryview = b""
    while left:
        block = next(blocks, b"")
        if not block:
            raise _OtherContent("the source is shorter than what is there")
        nodes.check_interrupt()
        before.update(block[:left])
        nodes.progress.skip(min(left, len(block)))
        first, left = block[left:], max(left - len(block), 0)
    if held is not None and before.hexdigest() != held.sha256:
        raise _OtherContent("what is there is not the source's beginning")
    return _chained(first, blocks)


def _chained(
    first: bytes | memoryview, blocks: Iterator[bytes] | Iterator[memoryview]
) -> Iterator[bytes | memoryview]:
    if first:
        yield first
    yield from blocks


def _fetch(nodes: Nodes, source: NodeSource, part: LocalPart) -> Copied:
    if part.size_bytes:
        if part.size_bytes <= (source.size_bytes or 0):
            try:
                return nodes.patiently(lambda: _fetch_from(nodes, source, part))
            except CallFailed:
                nodes.say(f"{source.shown!r}: can't go on from what is here: beginning anew")
                nodes.progress.begin(source.shown, source.size_bytes)
        part.clear()
    return nodes.patiently(lambda: _fetch_from(nodes, source, part))


def _fetch_from(nodes: Nodes, source: NodeSource, part: LocalPart) -> Copied:
    offset = part.size_bytes
    before = part.hashed() if offset else None
    nodes.progress.skip(offset)

    def take(piece: memoryview) -> None:
        part.add(piece)
        nodes.progress.advance(len(piece))

    sha256 = source.read(take, offset=offset, before=before)
    return Copied(part.size_bytes, sha256, part.size_bytes - offset)
