"""`serve`: the gateway in the foreground, until SIGTERM or Ctrl-C."""

import asyncio
import gc
import json
import logging
import os
import signal
import sys
import uuid
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hermes_nodes import config
from hermes_nodes.cli.options import command
from hermes_nodes.cli.output import print_error, say
from hermes_nodes.disk import allow_many_files
from hermes_nodes.errors import HermesNodesError
from hermes_nodes.gateway import Gateway

#: A full collection at 10,000 nodes stops the loop for a third of a second; the young generations are
#: collected as ever, and what the start made is never looked at again.
_GC_THRESHOLDS = (50_000, 50, 1000)
_Level = Literal["debug", "info", "warning", "error"]


def serve(
    host: Annotated[str | None, typer.Option(help="Where nodes dial in. [env: HERMES_NODES_HOST]")] = None,
    port: Annotated[
        str | None,
        typer.Option(help="Its port; 0 picks one. [env: HERMES_NODES_PORT]", metavar="PORT"),
    ] = None,
    tls_cert: Annotated[
        str | None,
        typer.Option(help="Certificate chain, PEM. [env: HERMES_NODES_TLS_CERT_PATH]", metavar="FILE"),
    ] = None,
    tls_key: Annotated[
        str | None,
        typer.Option(help="Its key, PEM. [env: HERMES_NODES_TLS_KEY_PATH]", metavar="FILE"),
    ] = None,
    log_format: Annotated[Literal["text", "json"], typer.Option(help="How stderr is written.")] = "text",
    log_level: Annotated[_Level, typer.Option(help="What is written there.")] = "info",
    ready_file: Annotated[
        Path | None, typer.Option(help="Written when ready: host, port, socket and pid as JSON.")
    ] = None,
    ready_fd: Annotated[
        int | None,
        typer.Option(help="The same, to this descriptor, which is closed then.", min=0, max=1_000_000),
    ] = None,
) -> int:
    """Run the gateway in the foreground."""
    if ready_file is not None:
        ready_file.unlink(missing_ok=True)  # what an earlier gateway wrote there is not true any more
    flags = {"host": host, "port": port, "tls_cert_path": tls_cert, "tls_key_path": tls_key}
    settings = config.load(flags)
    set_up_logging(log_format, log_level)
    for warning in settings.warnings:
        say(f"warning: {warning}")

    async def serve_until_stopped() -> int:
        async with Gateway(settings, tell=say) as gateway:
            operators = f", operators on {gateway.control_url}" if gateway.control_url else ""
            say(f"listening on {gateway.url}, control socket {gateway.control_socket}{operators}")
            _tell_ready(gateway.ready(), ready_file, ready_fd)
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _reload, gateway, flags)
            await stop_signal()
            say("stopping")
        return 0

    allow_many_files()
    gc.enable()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    return run_loop(serve_until_stopped())


def _reload(gateway: Gateway, flags: dict[str, str | None]) -> None:
    """SIGHUP: settings and certificates are read again; wrong ones change nothing."""
    try:
        waiting = gateway.reload(config.load(flags))
    except HermesNodesError as error:
        print_error(f"nothing was read again: {error.message}", error.hint)
        return
    say("settings and certificates were read again")
    if waiting:
        say(f"warning: these take effect at the next start: {', '.join(waiting)}")


def run_loop(main: Coroutine[Any, Any, int]) -> int:
    """Run to the end on the fastest loop there is."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - there is none for PyPy
    except ImportError:
        return None
    return uvloop.new_event_loop


async def stop_signal() -> None:
    """Wait for SIGTERM or SIGINT; a second one ends the process at once."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_DFL)
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    await stopped.wait()


def _tell_ready(facts: dict[str, object], file: Path | None, fd: int | None) -> None:
    content = json.dumps(facts) + "\n"
    if file is not None:
        # Written elsewhere and renamed, so that whoever waits for it never reads half of it.
        temporary = file.with_name(f".{file.name}-{uuid.uuid4().hex}")
        temporary.write_text(content)
        temporary.replace(file)
    if fd is not None:
        with os.fdopen(fd, "w") as stream:
            stream.write(content)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = {"ts": moment, "level": record.levelname.lower(), "logger": record.name}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps({**fields, "message": record.getMessage()})


def set_up_logging(form: str, level: str, path: Path | None = None) -> None:
    """Log to stderr, or to a file."""
    handler = logging.FileHandler(path) if path else logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(_JsonFormatter() if form == "json" else text)
    logging.basicConfig(level=level.upper(), handlers=[handler])


APPS = {"serve": command(serve)}
