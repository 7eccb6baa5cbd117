"""What a node's failure comes to for its caller: the sentence, and what to do about it."""

from typing import NamedTuple

import pytest

from hermes_nodes.errors import FileMissing, NodeDisconnected
from hermes_nodes.gateway.outcomes import failure_of, outcome_of
from hermes_nodes.protocol.messages import (
    Exec,
    ExecResult,
    JobKill,
    JobRead,
    JobWait,
    Pty,
    Read,
    Request,
    Write,
)


class Ended(NamedTuple):
    """A call that is over."""

    request: Request
    node: str = "laptop"
    dropped: bool = False


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Exec(id="1", command="x"), "may have taken effect"),
        (Write(id="1", path="x"), "may have taken effect"),
        (Exec(id="1", pty=Pty(80, 24)), "begin anew"),
        (Read(id="1", path="x"), "changes nothing"),
        (JobWait(id="1", job="x"), "goes on"),
        (JobRead(id="1", job="x", follow=True), "goes on"),
        (JobKill(id="1", job="x"), "does no harm"),
    ],
)
def test_what_to_do_after_a_node_was_lost_depends_on_the_call(request_: Request, words: str) -> None:
    def hint(*, sent: bool) -> str:
        error = failure_of(Ended(request_), NodeDisconnected("laptop", sent=sent), 1).error
        return str((error or {})["hint"])

    assert words in hint(sent=True)
    assert hint(sent=False).startswith("nothing has run")


@pytest.mark.parametrize(
    ("request_", "hint"),
    [
        (Exec(id="1", command="x"), "that is the home of the node's user: give --cwd /"),
        (Exec(id="1", command="x", cwd="/x"), ""),
        (
            Exec(id="1", command="x", session="a b"),
            "give --cwd /, or forget the session: `hermes-nodes session reset laptop 'a b'`",
        ),
    ],
)
def test_a_directory_to_run_in_that_is_not_there_has_a_way_out(request_: Exec, hint: str) -> None:
    answer = ExecResult(id="1", status="error", exit_code=-1, error="file_not_found", error_detail="x")
    with pytest.raises(FileMissing) as failure:
        outcome_of(Ended(request_), answer, 1)
    assert failure.value.hint == hint
