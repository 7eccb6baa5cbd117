"""What an older node can't do: refused, with its name and a way out, before anything is sent."""

import pytest

from hermes_nodes.errors import Unsupported
from hermes_nodes.older.limits import check_supported
from hermes_nodes.protocol.guarded import MAX_COMMAND
from hermes_nodes.protocol.messages import (
    JobKill,
    JobList,
    JobRead,
    JobWait,
    ListDir,
    MakeDir,
    Pty,
    Read,
    Request,
    SessionList,
    SessionReset,
    Stat,
    new_call_id,
)
from tests.older.support import a_command, a_write

ID = new_call_id()


NEVER = [
    (a_command(pty=Pty(80, 24)), "no terminals"),
    (a_command(detach=True), "no detached jobs"),
    (a_command(timeout_ms=999), "from 1s to 595s"),
    (a_command(timeout_ms=0), "from 1s to 595s"),
    (a_command(timeout_ms=595_001), "from 1s to 595s"),
    (a_command(session="s", stdin=True), "session no stdin"),
    (a_command(session="s", env={"A-B": "c"}), "a shell can name"),
    (a_command("x" * (MAX_COMMAND + 1)), "at most 131071 bytes"),
    (a_command("ö" * (MAX_COMMAND // 2 + 1)), "at most 131071 bytes"),
    (a_command(cwd="here"), "absolute path"),
    (Read(id=ID, path="/f", offset=1), "part of a file"),
    (Read(id=ID, path="/f", length=0), "part of a file"),
    (a_write(perm=0), "permissions"),
    (a_write(offset=1), "resume"),
    (SessionReset(id=ID, session="s"), "listed or reset"),
    (SessionList(id=ID), "listed or reset"),
    (Stat(id=ID, path="/"), "`fs`"),
    (ListDir(id=ID, path="/"), "`fs`"),
    (MakeDir(id=ID, path="/"), "`fs`"),
    (JobList(id=ID), "`jobs`"),
    (JobRead(id=ID, job="j"), "`jobs`"),
    (JobWait(id=ID, job="j"), "`jobs`"),
    (JobKill(id=ID, job="j"), "`jobs`"),
]
RAW = [(a_command(stdin=True), "legacy_exec: raw"), (a_command(env={"A-B": "c"}), "a shell can name")]
CASES = [
    *[(request, lack, guard) for request, lack in NEVER for guard in (True, False)],
    *[(request, lack, False) for request, lack in RAW],
]


@pytest.mark.parametrize(("request_", "lack", "guard"), CASES)
def test_what_an_older_node_lacks_is_refused_with_its_name_and_a_way_out(
    request_: Request, lack: str, guard: bool
) -> None:
    with pytest.raises(Unsupported) as refused:
        check_supported("web-1", request_, guard=guard)
    assert "'web-1' runs older node software" in refused.value.message
    assert lack in refused.value.message
    assert "install hermes-nodes" in refused.value.hint
    assert refused.value.exit_status == 69


def test_a_refusal_reads_the_same_as_text() -> None:
    with pytest.raises(Unsupported) as refused:
        check_supported("web-1", SessionList(id=ID), guard=True)
    assert str(refused.value) == refused.value.message


@pytest.mark.parametrize(
    ("request_", "guard"),
    [
        (a_command("x" * MAX_COMMAND), True),
        (a_command(timeout_ms=1_000), True),
        (a_command(timeout_ms=595_000), False),
        (a_command(stdin=True, env={"A-B": "c"}, cwd="/"), True),
        (a_command(session="s", env={"A_1": "c"}, cwd="/"), True),
        (a_command(env={"A_1": "c"}), False),
        (Read(id=ID, path="f"), True),
        (a_write(mode="append", size_bytes=5), True),
    ],
)
def test_what_an_older_node_can_do_is_let_pass(request_: Request, guard: bool) -> None:
    check_supported("web-1", request_, guard=guard)
