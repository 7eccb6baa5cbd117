"""The client's calls about files: content in pieces, directories entry by entry. Standard library only."""

import binascii
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from hermes_nodes.call_connection import Content, Json, Output, completed
from hermes_nodes.errors import CallFailed, HermesNodesError

if TYPE_CHECKING:
    from hashlib import _Hash

#: More bytes than a file has: a part from an offset to wherever the file ends.
_TO_THE_END = 2**53
#: Bytes of one line of a listing; a name has at most 255.
_MAX_LINE = 64 * 1024
_KINDS = {"file", "dir", "link", "other"}


class TransferResult(NamedTuple):
    """What was read or written."""

    node: str
    request_id: str
    size_bytes: int
    sha256: str


class FileFacts(NamedTuple):
    """``kind`` is file, dir, link or other; ``perm`` as chmod takes it; ``mtime`` in RFC 3339.

    Two directories are one if they have the same ``identity``, which older nodes can't tell.
    """

    kind: str
    size_bytes: int
    perm: int
    mtime: str | None
    identity: str | None = None


class DirectoryEntry(NamedTuple):
    """A name in a directory (bytes that are not UTF-8 are surrogates in it), and what it is there.

    The node says so: a name can be anything. A symlink is not followed.
    """

    name: str
    facts: FileFacts


class FileCalls(ABC):
    """`read`, `write` and the calls of `fs`, on top of ``call``."""

    @abstractmethod
    def call(
        self,
        body: Json,
        output: Output,
        content: Content | None = None,
        *,
        watch: Sequence[int] = (),
        interrupt: int | None = None,
        sent: Callable[[memoryview], object] = lambda _: None,
        note: Callable[[str], object] = lambda _: None,
    ) -> Json:
        """One call, from request to answer."""

    def read(
        self,
        node: str,
        path: str,
        output: Callable[[memoryview], object],
        *,
        offset: int = 0,
        length: int | None = None,
        before: "_Hash | None" = None,
        watch: Sequence[int] = (),
        interrupt: int | None = None,
        note: Callable[[str], object] = lambda _: None,
    ) -> TransferResult:
        """Give a file's content to ``output``, piece by piece; CallFailed if it arrived altered.

        ``offset`` and ``length`` in bytes choose a part. Whoever has the first ``offset`` bytes already
        gives their SHA-256 as ``before``, and no ``length``: then the whole file is compared.
        """
        body: Json = {"call": "read", "node": node, "path": path}
        if offset and length is None and before is None:
            length = _TO_THE_END
        # Left out where they say nothing: older nodes read whole files alone.
        body |= {"offset": offset} if offset else {}
        body |= {} if length is None else {"length": length}
        digest = before.copy() if before is not None else _sha256()

        def take(_: int, piece: memoryview) -> None:
            digest.update(piece)
            output(piece)

        answer = self.call(body, take, watch=watch, interrupt=interrupt, note=note)
        return _transfer_result(answer, "size_bytes", digest.hexdigest())

    def write(
        self,
        node: str,
        path: str,
        content: Content,
        *,
        mode: str = "overwrite",
        perm: int | None = None,
        size_bytes: int | None = None,
        offset: int = 0,
        before: "_Hash | None" = None,
        root: str | None = None,
        interrupt: int | None = None,
        note: Callable[[str], object] = lambda _: None,
    ) -> TransferResult:
        """Write a file, from bytes, pieces or a descriptor; it takes effect only when all has arrived.

        With ``size_bytes`` the whole must be that long, and a lost connection leaves on the node what has
        come. ``content`` then goes on there at ``offset``; ``before`` is the SHA-256 of what is skipped.
        Below ``root``, a directory that ``path`` begins with, no symlink is followed: CallFailed for one on
        the way, and one in the file's place is replaced.
        """
        body: Json = {"call": "write", "node": node, "path": path, "mode": mode, "perm": perm}
        body |= {"size_bytes": size_bytes, "offset": offset, "root": root}
        digest = before.copy() if before is not None else _sha256()
        answer = self.call(
            body, lambda *_: None, content, interrupt=interrupt, sent=digest.update, note=note
        )
        return _transfer_result(answer, "bytes_written", digest.hexdigest())

    def stat(self, node: str, path: str, *, interrupt: int | None = None) -> FileFacts:
        """What is at a node's path, symlinks followed; raises FileMissing, PathNotAllowed, Unsupported."""
        body: Json = {"call": "stat", "node": node, "path": path}
        answer = completed(self.call(body, lambda *_: None, interrupt=interrupt))
        facts = answer.get("facts")
        return _facts(facts if isinstance(facts, dict) else {})

    def list_dir(
        self,
        node: str,
        path: str,
        entry: Callable[[DirectoryEntry], object],
        *,
        interrupt: int | None = None,
    ) -> None:
        """Give each entry of a node's directory to ``entry``, in no order; CallFailed if it is none."""
        lines = _Lines(node, entry)
        completed(
            self.call(
                {"call": "list_dir", "node": node, "path": path},
                lambda _, piece: lines.feed(piece),
                interrupt=interrupt,
            )
        )
        lines.end()

    def make_dir(
        self,
        node: str,
        path: str,
        *,
        perm: int | None = None,
        root: str | None = None,
        interrupt: int | None = None,
    ) -> str | None:
        """Make a directory on a node; one that is there is fine, and gets ``perm`` if that is given.

        Below ``root`` no symlink is followed, as in ``write``. Gives its identity, as ``stat`` does.
        """
        body: Json = {"call": "make_dir", "node": node, "path": path, "perm": perm, "root": root}
        facts = completed(self.call(body, lambda *_: None, interrupt=interrupt)).get("facts")
        return _text(facts.get("identity")) if isinstance(facts, dict) else None


class _Lines:
    """Cuts a listing into entries."""

    def __init__(self, node: str, entry: Callable[[DirectoryEntry], object]) -> None:
        self._node = node
        self._entry = entry
        self._rest = bytearray()

    def feed(self, piece: memoryview) -> None:
        *lines, rest = (self._rest + piece).split(b"\n")
        if len(rest) > _MAX_LINE:
            raise self._wrong()
        self._rest = rest
        for line in lines:
            self._entry(self._parsed(line))

    def end(self) -> None:
        if self._rest:
            raise self._wrong()

    def _parsed(self, line: bytearray) -> DirectoryEntry:
        try:
            fields = json.loads(line)
            name = binascii.a2b_base64(fields["name_b64"], strict_mode=True)
            return DirectoryEntry(os.fsdecode(name), _facts(fields))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise self._wrong() from error

    def _wrong(self) -> HermesNodesError:
        return CallFailed(f"node {self._node!r} sent a listing that is none", "update its software")


def _facts(fields: dict[str, object]) -> FileFacts:
    kind = fields.get("kind")
    return FileFacts(
        kind=kind if isinstance(kind, str) and kind in _KINDS else "other",
        size_bytes=whole(fields.get("size_bytes")),
        perm=whole(fields.get("perm")),
        mtime=_text(fields.get("mtime")),
        identity=_text(fields.get("identity")),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _transfer_result(answer: Json, size: str, sha256: str) -> TransferResult:
    """``size`` is the answer's key for how much was transferred; ``sha256`` is of our end."""
    completed(answer)
    if answer["sha256"] != sha256:
        raise CallFailed(
            "the content arrived altered: its SHA-256 differs between here and the node",
            "transfer it again; if it stays so, suspect a disk",
        )
    return TransferResult(
        str(answer["node"]), str(answer["request_id"]), whole(answer.get(size)), str(answer["sha256"])
    )


def _sha256() -> "_Hash":
    import hashlib  # noqa: PLC0415 - `exec` has no use for it

    return hashlib.sha256()


def whole(value: object) -> int:
    """A number of an answer; 0 where there is none, and never less."""
    return max(value, 0) if isinstance(value, int) else 0
