"""`read` and `write` on an older node: a file's content inside the message."""

import base64
import hashlib
from typing import TYPE_CHECKING

from hermes_nodes.calls import Answer
from hermes_nodes.errors import CallFailed, HermesNodesError, Unsupported
from hermes_nodes.older.calls import OlderCall, decoded
from hermes_nodes.protocol.messages import Error, Read, ReadResult, Write, WriteResult
from hermes_nodes.protocol.stream import STDOUT, Source

if TYPE_CHECKING:
    from hermes_nodes.older.sessions import OlderSession

#: Bytes of a file that a call can carry.
MAX_FILE = 10 * 1024 * 1024
#: Seconds that a file may take: as long as the longest command. Nothing shows how far it has come.
_FILE_SECONDS = 600.0
#: What standard base64 decodes to nothing, and is something: a `write` without content is refused.
_EMPTY_B64 = "\n"
_TOO_LARGE = ("file_too_large", 2003)
_BAD_REQUEST = 4000
_FILE_ERRORS = ("path_not_allowed", "file_not_found", "file_exists", "permission_denied", "io_error")


class OlderRead(OlderCall):
    """A file's content, all of it in the answer."""

    def __init__(self, session: "OlderSession", request: Read, source: Source | None) -> None:
        super().__init__(session, request, source)
        self._read = request

    @property
    def seconds(self) -> float:
        return _FILE_SECONDS

    def message(self, prepare: str) -> Read:  # noqa: ARG002 - the interface
        return Read(id=self.id, path=self._read.path)

    def conclude(self, answer: Answer) -> None:
        if (answer.code if isinstance(answer, Error) else answer.error) in _TOO_LARGE:
            self.finish(Unsupported.older(self._name, f"reads files of at most {MAX_FILE} bytes"))
        else:
            super().conclude(answer)

    def _conclude(self, answer: Answer) -> None:
        if not isinstance(answer, ReadResult) or answer.status != "ok":
            self.finish(answer)
            return
        content = decoded(answer.content_b64)
        if answer.size_bytes not in (0, len(content)):
            self.finish(CallFailed(f"node {self._name!r} sent {len(content)} of {answer.size_bytes} bytes"))
            return
        self._give(STDOUT, content)
        self.finish(ReadResult(id=self.id, status="ok", size_bytes=len(content), sha256=_sha256(content)))


class OlderWrite(OlderCall):
    """A file's content, all of it in the request."""

    most_input = MAX_FILE

    def __init__(self, session: "OlderSession", request: Write, source: Source | None) -> None:
        super().__init__(session, request, source)
        self._write = request
        self._size = 0
        self._sha256 = ""

    @property
    def seconds(self) -> float:
        return _FILE_SECONDS

    def message(self, prepare: str) -> Write:  # noqa: ARG002 - the interface
        taken = self.take_input()
        self._size, self._sha256 = len(taken), _sha256(taken)
        content = base64.b64encode(taken).decode() or _EMPTY_B64
        return Write(id=self.id, path=self._write.path, mode=self._write.mode, content_b64=content)

    def conclude(self, answer: Answer) -> None:
        failed = isinstance(answer, Error) or answer.status != "ok"
        if failed and not self._size and _is_bad_request(answer):
            self.finish(Unsupported.older(self._name, "can't write an empty file"))
        else:
            super().conclude(answer)

    def _conclude(self, answer: Answer) -> None:
        if not isinstance(answer, WriteResult) or answer.status != "ok":
            self.finish(answer)
        elif answer.bytes_written != self._size:
            wrote = f"wrote {answer.bytes_written} of {self._size} bytes"
            self.finish(CallFailed(f"node {self._name!r} {wrote}", "look at the file before you use it"))
        else:
            self.finish(WriteResult(id=self.id, status="ok", bytes_written=self._size, sha256=self._sha256))

    def _too_much(self) -> HermesNodesError:
        return Unsupported.older(self._name, f"writes files of at most {MAX_FILE} bytes")


def _is_bad_request(answer: Answer) -> bool:
    """Whether a node refuses the request as such, and not for its file."""
    if isinstance(answer, Error):
        return answer.code == _BAD_REQUEST
    return answer.error not in _FILE_ERRORS


def _sha256(content: bytes | bytearray) -> str:
    return hashlib.sha256(content).hexdigest()
