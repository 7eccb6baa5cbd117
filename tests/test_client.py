"""The client for programs, against a real gateway and a real node."""

import hashlib
import io
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hermes_nodes import Client, __version__, errors
from hermes_nodes.client import KEEP_BYTES
from hermes_nodes.protocol import control
from tests.harness import KILL_THE_NODE, GatewayProcess, Home, NodeProcess
from tests.support import PATIENCE


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("client"))


@pytest.fixture(scope="module")
def gateway(home: Home) -> Iterator[GatewayProcess]:
    with home.gateway() as running:
        yield running


@pytest.fixture(scope="module")
def node(home: Home, gateway: GatewayProcess) -> Iterator[NodeProcess]:
    with home.node(gateway, "laptop", allow=[home.folder]) as running:
        yield running


@pytest.fixture
def client(home: Home, node: NodeProcess) -> Client:
    return home.client


# -- exec -----------------------------------------------------------------------------------------


def test_exec_returns_how_the_command_ended(client: Client) -> None:
    result = client.exec("laptop", "uname -a; echo err >&2; exit 3")
    assert (result.node, result.status, result.exit_code, result.signal) == ("laptop", "error", 3, None)
    assert result.stdout.startswith(os.uname().sysname)
    assert (result.stderr, result.stderr_bytes) == ("err\n", b"err\n")
    assert (result.truncated, result.error) == (False, None)
    assert uuid.UUID(result.request_id).version == 4
    assert 0 <= result.duration_ms < PATIENCE * 1000


def test_exec_of_a_sequence_uses_no_shell(client: Client) -> None:
    assert client.exec("laptop", ["echo", "$HOME", "a  b"]).stdout == "$HOME a  b\n"


def test_exec_passes_on_directory_and_environment(client: Client, tmp_path: Path) -> None:
    result = client.exec("laptop", 'echo "$PWD $GREETING"', cwd=str(tmp_path), env={"GREETING": "hello"})
    assert result.stdout == f"{tmp_path} hello\n"


def test_exec_names_the_signal_that_ended_a_command(client: Client) -> None:
    result = client.exec("laptop", "kill -KILL $$")
    assert (result.status, result.signal, result.exit_code) == ("error", "KILL", 137)


def test_exec_returns_what_came_before_a_time_out(client: Client) -> None:
    result = client.exec("laptop", "echo out; sleep 60", timeout=0.2)
    assert (result.status, result.stdout) == ("timeout", "out\n")
    assert result.error is not None
    assert result.error["code"] == "timeout"


def test_output_that_is_not_utf_8_is_whole_as_bytes_and_readable_as_text(client: Client) -> None:
    result = client.exec("laptop", r"printf 'a\377\303\251'")
    assert result.stdout_bytes == b"a\xff\xc3\xa9"
    assert result.stdout == "a\udcffé"
    assert os.fsencode(result.stdout) == result.stdout_bytes


@pytest.mark.parametrize(
    "content",
    [b"abc" * 200_000, [b"abc" * 100_000, b"", b"abc" * 100_000], (b"abc" for _ in range(200_000))],
    ids=["bytes", "pieces", "many small pieces"],
)
def test_stdin_is_bytes_or_pieces_of_them(client: Client, content: bytes | Iterable[bytes]) -> None:
    result = client.exec("laptop", "sha256sum", stdin=content)
    assert result.stdout.split()[0] == hashlib.sha256(b"abc" * 200_000).hexdigest()


def test_stdin_is_a_descriptor(client: Client, tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(b"abc" * 200_000)
    with (tmp_path / "input").open("rb") as file:
        assert client.exec("laptop", "wc -c", stdin=file.fileno()).stdout == "600000\n"


def test_a_device_is_read_where_no_device_can_be_polled(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS."""
    monkeypatch.setattr("sys.platform", "darwin")
    ours, theirs = os.openpty()
    try:
        os.write(ours, b"typed\n\x04")
        assert client.exec("laptop", "cat", stdin=theirs).stdout == "typed\n"
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_what_can_be_no_time_out_is_a_usage_error(client: Client, timeout: float) -> None:
    for attempt in (client.exec, client.start_job):
        with pytest.raises(errors.UsageError, match="can't be a time-out"):
            attempt("laptop", "true", timeout=timeout)


def test_output_is_kept_up_to_its_limit(client: Client) -> None:
    result = client.exec("laptop", f"head -c {KEEP_BYTES + 1} /dev/zero; echo err >&2")
    assert (len(result.stdout_bytes), result.stderr, result.truncated) == (KEEP_BYTES, "err\n", True)


def test_calls_of_several_threads_run_side_by_side(client: Client, tmp_path: Path) -> None:
    meeting = tmp_path / "meeting"
    os.mkfifo(meeting)
    results = []

    def call(command: str) -> None:
        results.append(client.exec("laptop", command).status)

    # Each command ends only if the other runs meanwhile.
    threads = [
        threading.Thread(target=call, args=[command.format(meeting)]) for command in ("echo > {}", "cat {}")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert results == ["ok", "ok"]


# -- files ----------------------------------------------------------------------------------------


def pieces(content: bytes) -> Iterator[bytes]:
    yield from (content[at : at + 100_000] for at in range(0, len(content), 100_000))


@pytest.mark.parametrize("form", [bytes, pieces], ids=["bytes", "pieces"])
@pytest.mark.parametrize("size", [0, 1, 126 * 1024, 1_500_000])
def test_what_is_written_is_read_back(
    client: Client, home: Home, form: Callable[[bytes], bytes], size: int
) -> None:
    path, content = home.folder / "content", os.urandom(size)
    digest = hashlib.sha256(content).hexdigest()
    written = client.write("laptop", str(path), form(content), perm=0o640)
    assert (written.node, written.size_bytes, written.sha256) == ("laptop", size, digest)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (content, 0o640)
    got = io.BytesIO()
    read = client.read("laptop", str(path), got.write)
    assert (got.getvalue(), read.size_bytes, read.sha256) == (content, size, digest)
    assert uuid.UUID(read.request_id).version == 4
    path.unlink()


def test_a_descriptor_is_written_to_its_end(client: Client, home: Home) -> None:
    source = home.folder / "source"
    source.write_bytes(os.urandom(300_000))
    with source.open("rb") as file:
        client.write("laptop", str(home.folder / "copy"), file.fileno())
    assert (home.folder / "copy").read_bytes() == source.read_bytes()


def test_append_adds_and_create_refuses_what_is_there(client: Client, home: Home) -> None:
    path = home.folder / "log"
    client.write("laptop", str(path), b"one\n", mode="create")
    client.write("laptop", str(path), b"two\n", mode="append")
    assert path.read_bytes() == b"one\ntwo\n"
    with pytest.raises(errors.FileAlreadyThere):
        client.write("laptop", str(path), b"three\n", mode="create")
    assert path.read_bytes() == b"one\ntwo\n"


# -- pairings -------------------------------------------------------------------------------------


def test_pairings_are_made_listed_and_revoked(client: Client) -> None:
    made = client.pair("web", labels={"role": "web"}, expires_in=3600, first_use_within=60)
    assert set(made) >= {
        "name",
        "token",
        "pairing_id",
        "created_at",
        "expires_at",
        "first_use_by",
        "labels",
    }
    (view,) = client.nodes("label:role=web")
    assert (view["name"], view["state"], view["expires_at"]) == ("web", "never_seen", made["expires_at"])
    again = client.pair("web", force=True)
    assert again["token"] != made["token"]
    revoked = client.revoke("web")
    assert revoked["pairing_id"] == again["pairing_id"]
    assert client.revoke("web")["revoked_at"] == revoked["revoked_at"]
    assert "web" not in [node["name"] for node in client.nodes()]
    assert {node["state"] for node in client.nodes("web", everything=True)} == {"revoked"}
    assert len(client.nodes("web", state="revoked")) == 2


def test_status_says_what_the_gateway_is_doing(client: Client, home: Home, gateway: GatewayProcess) -> None:
    status = client.status()
    assert (status["version"], status["pid"], status["port"]) == (
        __version__,
        gateway.process.pid,
        gateway.port,
    )
    assert (status["socket"], status["nodes_connected"], status["calls_in_flight"]) == (
        str(gateway.socket),
        1,
        0,
    )


# -- failures -------------------------------------------------------------------------------------


FAILURES: dict[str, tuple[Callable[[Client], object], type[errors.HermesNodesError]]] = {
    "exec nobody": (lambda client: client.exec("nobody", "true"), errors.UnknownNode),
    "exec absent": (lambda client: client.exec("absent", "true"), errors.NodeNotConnected),
    "exec no command": (lambda client: client.exec("laptop", []), errors.UsageError),
    "exec bad variable": (lambda client: client.exec("laptop", "true", env={"=": ""}), errors.UsageError),
    "exec not UTF-8": (lambda client: client.exec("laptop", "\udcff"), errors.UsageError),
    "exec too long for a record": (lambda client: client.exec("laptop", ":" * 800_000), errors.UsageError),
    "exec too long for a request": (
        lambda client: client.exec("laptop", ":" * 3_000_000),
        errors.UsageError,
    ),
    "exec nowhere": (lambda client: client.exec("laptop", "true", cwd="/nowhere"), errors.FileMissing),
    "read nobody": (lambda client: client.read("nobody", "x", len), errors.UnknownNode),
    "read absent": (lambda client: client.read("absent", "x", len), errors.NodeNotConnected),
    "read not allowed": (lambda client: client.read("laptop", "/etc/passwd", len), errors.PathNotAllowed),
    "write not allowed": (lambda client: client.write("laptop", "/etc/x", b""), errors.PathNotAllowed),
    "write bad permissions": (lambda client: client.write("laptop", "x", b"", perm=-1), errors.UsageError),
    "write bad mode": (lambda client: client.write("laptop", "x", b"", mode="y"), errors.UsageError),
    "pair twice": (lambda client: client.pair("laptop"), errors.AlreadyPaired),
    "pair bad name": (lambda client: client.pair("a b"), errors.UsageError),
    "pair bad label": (lambda client: client.pair("x", labels={"": ""}), errors.UsageError),
    "pair beyond the calendar": (lambda client: client.pair("x", expires_in=1e12), errors.UsageError),
    "revoke nobody": (lambda client: client.revoke("nobody"), errors.UnknownNode),
    "revoke not UTF-8": (lambda client: client.revoke("\udcff"), errors.UnknownNode),
    "nodes nobody": (lambda client: client.nodes("nobody"), errors.UnknownNode),
    "nodes no match": (lambda client: client.nodes("x-*"), errors.UnknownNode),
    "nodes not UTF-8": (lambda client: client.nodes("\udcff"), errors.UnknownNode),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failure_raises_its_own_class(client: Client, case: str) -> None:
    call, kind = FAILURES[case]
    if "absent" in case:
        client.pair("absent", force=True)
    with pytest.raises(kind) as failure:
        call(client)
    assert type(failure.value) is kind
    assert failure.value.message


def test_reading_what_is_not_there_is_file_missing(client: Client, home: Home) -> None:
    with pytest.raises(errors.FileMissing):
        client.read("laptop", str(home.folder / "none"), len)


def test_a_node_that_dies_during_a_call_is_node_disconnected(
    client: Client, home: Home, gateway: GatewayProcess
) -> None:
    with home.node(gateway, "fragile"), pytest.raises(errors.NodeDisconnected) as failure:
        client.exec("fragile", f"{KILL_THE_NODE}; sleep 60")
    assert failure.value.request_id is not None


def test_a_gateway_that_does_not_run_is_said_so(tmp_path: Path) -> None:
    client = Client(str(tmp_path / "socket"))
    for call in (client.status, lambda: client.exec("laptop", "true")):
        with pytest.raises(errors.GatewayNotRunning, match=str(tmp_path)):
            call()


@pytest.mark.parametrize("url", ["http://gateway.example", "https://", "unix:///run/socket"])
def test_an_address_that_is_none_or_in_the_open_is_refused(url: str) -> None:
    with pytest.raises(errors.UsageError, match=r"no gateway.s address|in the open"):
        Client(url, token="hno_x")
    with pytest.raises(errors.UsageError, match=r"no gateway.s address|in the open"):
        Client(environ={"HERMES_NODES_GATEWAY": url, "HERMES_NODES_OPERATOR_TOKEN": "hno_x"})


def test_a_url_needs_a_token() -> None:
    with pytest.raises(errors.NoToken):
        Client("https://gateway.example", environ={})


def test_the_gateway_is_the_given_one_else_the_exported_else_the_homes(tmp_path: Path) -> None:
    exported = {"HERMES_NODES_GATEWAY": "/exported", "HERMES_HOME": str(tmp_path)}
    assert Client("/given", environ=exported).gateway == "/given"
    assert Client(environ=exported).gateway == "/exported"
    assert Client(environ={"HERMES_HOME": str(tmp_path)}).gateway == f"{tmp_path}/nodes/gateway.sock"


# -- a gateway that misbehaves --------------------------------------------------------------------


@contextmanager
def scripted_gateway(path: Path, *answers: bytes) -> Iterator[Client]:
    """A socket that gives an answer per connection, whatever is asked, and hangs up."""

    def answer_each() -> None:
        for answer in answers:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=answer_each)
        thread.start()
        yield Client(str(path))
        thread.join(PATIENCE)


UPGRADED = f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: {control.UPGRADE}\r\n\r\n".encode()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 101 Switching",
        UPGRADED,
        UPGRADED + control.frame(control.DATA, b"out", channel=1),
        UPGRADED + control.header(control.ANSWER, 100) + b"{",
    ],
    ids=["nothing", "half a head", "no answer", "output alone", "half an answer"],
)
def test_a_gateway_that_is_lost_during_a_call_is_said_so(tmp_path: Path, answer: bytes) -> None:
    with scripted_gateway(tmp_path / "socket", answer) as client, pytest.raises(errors.GatewayLost):
        client.exec("laptop", "true")


def test_what_to_do_after_a_loss_depends_on_the_call(tmp_path: Path) -> None:
    with scripted_gateway(tmp_path / "socket", *[UPGRADED] * 4) as client:
        hints = []
        for call in (
            lambda: client.exec("laptop", "true"),
            lambda: client.job_wait("laptop", "x"),
            lambda: client.job_logs("laptop", "x", print, follow=True),
            lambda: client.read("laptop", "x", print),
        ):
            with pytest.raises(errors.GatewayLost) as failure:
                call()
            hints.append(failure.value.hint)
    assert "may have taken effect" in hints[0]
    assert "goes on" in hints[1]
    assert hints[1] == hints[2]
    assert "changes nothing" in hints[3]


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\n"], ids=["nothing", "half a head"])
def test_a_gateway_that_is_lost_during_a_request_is_said_so(tmp_path: Path, answer: bytes) -> None:
    with scripted_gateway(tmp_path / "socket", answer) as client, pytest.raises(errors.GatewayLost):
        client.status()


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b"{"])
def test_what_is_no_gateway_is_said_so(tmp_path: Path, content: bytes) -> None:
    answer = b"HTTP/1.1 502 Bad Gateway\r\n\r\n" + content
    with scripted_gateway(tmp_path / "socket", answer, answer) as client:
        for call in (client.status, lambda: client.exec("laptop", "true")):
            with pytest.raises(errors.HermesNodesError, match="HTTP 502"):
                call()


def test_frames_of_a_later_version_are_passed_over(tmp_path: Path) -> None:
    answer = b'{"node": "laptop", "request_id": "r", "status": "ok", "exit_code": 0, "new": 1}'
    frames = [
        control.frame(99, b"whatever"),
        control.frame(control.NOTE, b"{}"),
        control.frame(control.DATA, b"out", channel=1),
        control.frame(control.ANSWER, answer),
    ]
    with scripted_gateway(tmp_path / "socket", UPGRADED + b"".join(frames)) as client:
        assert client.exec("laptop", "true").stdout == "out"
