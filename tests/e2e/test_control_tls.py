"""The control API over TLS does what the control socket does."""

import hashlib
import json
import os
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.certificates import Authority
from tests.harness import GatewayProcess, Home, NodeProcess, Watched
from tests.network import LOOPBACK, Remote, add_operator
from tests.support import PATIENCE


@pytest.fixture(scope="module")
def tls_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def authority(tls_home: Home) -> Authority:
    """An authority that every machine here trusts."""
    made = Authority(tls_home.folder / "authority")
    tls_home.environ["SSL_CERT_FILE"] = str(made.ca)
    return made


@pytest.fixture(scope="module")
def tls_gateway(tls_home: Home, authority: Authority) -> Iterator[GatewayProcess]:
    with tls_home.gateway(**LOOPBACK, **authority.environ) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def tls_node(tls_home: Home, tls_gateway: GatewayProcess, authority: Authority) -> Iterator[NodeProcess]:
    with tls_home.node(tls_gateway, "laptop", allow=[tls_home.folder]) as node:
        yield node


@pytest.fixture(scope="module")
def remote(
    tls_home: Home, tls_gateway: GatewayProcess, tls_node: NodeProcess, authority: Authority
) -> Remote:
    token = add_operator(tls_home, "ci", "--allow", "all")
    url = tls_gateway.control_url.replace("127.0.0.1", "localhost")
    return Remote(tls_home, tls_gateway, token, HERMES_NODES_GATEWAY=url)


def test_output_comes_live_and_the_exit_code_is_the_commands(remote: Remote, tls_home: Home) -> None:
    gate = tls_home.folder / "gate"
    os.mkfifo(gate)
    with remote.start("exec", "laptop", f"echo first; cat {gate}; echo last >&2; exit 7") as command:
        assert command.line() == "first\n"
        gate.write_text("second\n")
        assert command.end() == (7, b"second\n", b"last\n")


def test_megabytes_go_both_ways(remote: Remote) -> None:
    content = os.urandom(5 * 1024 * 1024)
    done = remote.run("exec", "-i", "laptop", "cat", stdin=content)
    assert done.returncode == 0
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(content).digest()


def test_ctrl_c_ends_the_command_on_the_node(remote: Remote) -> None:
    with remote.start("exec", "laptop", "echo $$; exec sleep 300") as command:
        with Watched([int(command.line())]) as watched:
            command.process.send_signal(signal.SIGINT)
            assert watched.living(within=PATIENCE) == 0
        assert command.end()[0] == 130


def test_the_answer_comes_as_json(remote: Remote) -> None:
    answer = json.loads(remote.ok("exec", "--json", "laptop", "echo out; echo err >&2"))
    assert (answer["status"], answer["stdout"], answer["stderr"]) == ("ok", "out\n", "err\n")
    done = remote.run("exec", "--json", "nobody", "true")
    assert (done.returncode, json.loads(done.stdout)["status"]) == (66, "unknown_node")


def test_files_are_copied_both_ways(remote: Remote, tls_home: Home) -> None:
    there, here, back = (tls_home.folder / name for name in ("there", "here", "back"))
    there.mkdir()
    here.write_bytes(os.urandom(3 * 1024 * 1024))
    remote.ok("cp", str(here), f"laptop:{there}/copy")
    remote.ok("cp", "-r", f"laptop:{there}", str(back))
    assert (back / "copy").read_bytes() == here.read_bytes()
    assert remote.run("read", "laptop", str(there / "copy")).stdout == here.read_bytes()


def test_the_nodes_are_listed(remote: Remote) -> None:
    (view,) = json.loads(remote.ok("list", "--json"))
    assert (view["name"], view["state"]) == ("laptop", "connected")


def test_jobs_are_started_shown_and_awaited(remote: Remote) -> None:
    job = remote.ok("exec", "--detach", "laptop", "echo done; exit 3").strip()
    assert remote.run("wait", job).returncode == 3
    assert remote.ok("logs", job) == "done\n"
    assert job in remote.ok("jobs", "laptop")


def test_a_renewed_certificate_drops_neither_node_nor_call(
    remote: Remote, tls_home: Home, tls_gateway: GatewayProcess, tls_node: NodeProcess, authority: Authority
) -> None:
    url = urlsplit(tls_gateway.control_url)
    with remote.start("exec", "-i", "laptop", "echo runs; cat") as command:
        assert command.line() == "runs\n"
        renewed = authority.renew()
        with tls_home.rows(action="settings") as rows:
            tls_gateway.process.send_signal(signal.SIGHUP)
            assert next(rows)["status"] == "ok"
        for port in (url.port or 0, tls_gateway.port):
            assert ssl.get_server_certificate((url.hostname or "", port), timeout=PATIENCE) == renewed
        assert remote.ok("exec", "laptop", "echo too") == "too\n"
        assert command.process.stdin is not None
        command.process.stdin.write(b"still\n")
        assert command.end()[:2] == (0, b"still\n")
    assert tls_home.node_view("laptop")["session_id"] == tls_node.session_id


# -- what goes wrong ----------------------------------------------------------------------------------


def test_a_gateway_of_an_unknown_authority_gets_no_token(
    remote: Remote, tls_home: Home, tls_gateway: GatewayProcess
) -> None:
    other = Authority(tls_home.folder / "other")
    environ = {**remote.environ, "SSL_CERT_FILE": str(other.ca)}
    done = Remote(tls_home, tls_gateway, remote.token, **environ).run("list")
    assert done.returncode == 69
    assert b"error: no encrypted connection to https://localhost" in done.stderr
    assert b"certificate" in done.stderr
    assert b"SSL_CERT_FILE" in done.stderr


def test_a_certificate_of_another_host_is_refused(
    remote: Remote, tls_home: Home, tls_gateway: GatewayProcess
) -> None:
    url = tls_gateway.control_url.replace("127.0.0.1", "127.1")  # the same address by another name
    environ = {**remote.environ, "HERMES_NODES_GATEWAY": url}
    done = Remote(tls_home, tls_gateway, remote.token, **environ).run("list")
    assert done.returncode == 69
    assert b"no encrypted connection to https://127.1" in done.stderr


@contextmanager
def server(says: bytes) -> Iterator[int]:
    """Something that listens, takes what comes, and says one thing to everybody; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, suppress(ConnectionError):
                connection.sendall(says)
                while connection.recv(65536):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield int(listener.getsockname()[1])
        thread.join(PATIENCE)


@pytest.mark.parametrize(
    "command", [("list",), ("exec", "laptop", "true"), ("operator", "list")], ids=" ".join
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_what_speaks_another_protocol_is_no_gateway(
    remote: Remote, tls_home: Home, command: tuple[str, ...], scheme: str
) -> None:
    with server(b"SSH-2.0-OpenSSH_9.6\r\n") as port:
        environ = {**remote.environ, "HERMES_NODES_GATEWAY": f"{scheme}://127.0.0.1:{port}"}
        done = tls_home.run(*command, **environ)
    told = {"http": b"what answers there is no gateway", "https": b"no encrypted connection to"}
    assert done.returncode == 69
    assert told[scheme] in done.stderr


@pytest.mark.parametrize(
    "command",
    [("list",), ("exec", "laptop", "true"), ("exec", "-i", "laptop", "cat"), ("audit", "tail", "-f")],
    ids=" ".join,
)
def test_http_to_a_port_that_speaks_tls_is_told_so(
    remote: Remote, tls_home: Home, tls_gateway: GatewayProcess, command: tuple[str, ...]
) -> None:
    url = tls_gateway.control_url
    plain = url.replace("https:", "http:")
    done = remote.run("--gateway", plain, *command, stdin=bytes(1_000_000))
    assert (done.returncode, done.stdout) == (69, b"")
    assert f"error: the port of {plain} speaks TLS\n" in done.stderr.decode()
    assert f"hint: write {url}\n" in done.stderr.decode()


@pytest.mark.parametrize("command", [("list",), ("exec", "laptop", "true")], ids=" ".join)
def test_https_to_a_port_that_speaks_none_is_told_so(
    remote: Remote, tmp_path: Path, command: tuple[str, ...]
) -> None:
    with Home(tmp_path).gateway(**LOOPBACK) as gateway:
        url = gateway.control_url.replace("http:", "https:")
        done = remote.run("--gateway", url, *command)
    assert (done.returncode, done.stdout) == (69, b"")
    assert f"error: no encrypted connection to {url}: its port does not speak TLS\n" in done.stderr.decode()
    assert f"hint: write {gateway.control_url}\n" in done.stderr.decode()


@pytest.mark.parametrize("content", [None, "", "\n"])
def test_a_token_file_without_a_token_is_a_mistake_of_usage(
    remote: Remote, tls_home: Home, tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
    done = remote.run("--operator-token-file", str(path), "list")
    assert done.returncode == 2
    assert str(path).encode() in done.stderr


def test_a_token_may_be_in_a_file(remote: Remote, tls_home: Home, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(remote.token + "\n")
    environ = {**remote.environ, "HERMES_NODES_OPERATOR_TOKEN": ""}
    assert "laptop" in tls_home.ok("--operator-token-file", str(path), "list", **environ)
