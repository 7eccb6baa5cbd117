"""`node join`, `node run`, `node status`: the side of the machine that is reached."""

import asyncio
import fcntl
import gc
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hermes_nodes.cli.options import Json
from hermes_nodes.cli.output import print_facts, print_json, say
from hermes_nodes.disk import open_private
from hermes_nodes.errors import Unavailable, UsageError
from hermes_nodes.node import config
from hermes_nodes.node.user import expand_home

if TYPE_CHECKING:
    from hermes_nodes.node.config import NodeConfig

_SPARE_THREADS = 16
TOKEN_VARIABLE = "HERMES_NODE_TOKEN"  # noqa: S105 - the variable's name

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Make this machine a node.",
)


@app.callback()
def node() -> None:
    """Make this machine a node of a gateway."""


@app.command()
def join(
    url: Annotated[str, typer.Argument(help="The gateway: wss://gateway.example, ws://10.0.0.1:7000.")],
    name: Annotated[str, typer.Option(help="The name that this machine was paired as.")],
    allow: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="A directory to read and write in; may be repeated."),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Read the token from there.")
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="TOKEN",
            help="The token itself. Better not: other users see it in `ps`, and your shell keeps it. "
            f"Use {TOKEN_VARIABLE}, --token-file or stdin.",
        ),
    ] = None,
    ca_cert: Annotated[
        str | None, typer.Option(metavar="FILE", help="CA of the gateway's certificate, PEM.")
    ] = None,
    pin: Annotated[
        str | None, typer.Option(metavar="SHA256", help="The gateway's certificate, by its fingerprint.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace these settings in a config.toml that is there.")
    ] = False,
) -> None:
    """Write this machine's config.toml, with the token that `pair` has printed."""
    path = config.config_path(os.environ)
    config.write(
        path,
        server_url=config.normalise_server_url(url),
        name=config.check_name(name),
        token=config.check_token(_token(token, token_file, _stored_token(path) if force else "")),
        # Without --allow a new config.toml allows nothing, and one that is replaced keeps what it had.
        allowed_paths=None
        if force and not allow
        else [config.check_allowed_path(one) for one in allow or []],
        ca_cert=ca_cert,
        pinned_cert_sha256=config.check_fingerprint(pin) if pin else None,
        replace=force,
    )
    say(f"wrote {path}")
    for missing in (one for one in allow or [] if not os.path.exists(expand_home(one))):
        say(f"warning: {missing} is not there yet")
    if not config.load(path).allowed_paths:
        say("no path is allowed: `read` and `write` will be refused; --allow PATH changes that")
    say("`hermes-nodes node run` connects this machine")


def _stored_token(path: Path) -> str:
    """The token of settings that are to be replaced, which stays unless another is given."""
    return config.load(path).token if path.exists() else ""


def _token(given: str | None, file: Path | None, stored: str) -> str:
    """The token, from wherever it was given, else ``stored``; raises UsageError if there is none."""
    if given:
        return given.strip()
    if file is not None:
        try:
            return file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text"
            raise UsageError(f"the token file {file} can't be read: {why}") from error
    if from_environment := os.environ.get(TOKEN_VARIABLE, "").strip():
        return from_environment
    if sys.stdin.isatty():
        return str(
            typer.prompt("Token", default=stored, show_default=False, hide_input=True, err=True)
        ).strip()
    token = sys.stdin.readline().strip() or stored
    if not token:
        raise UsageError(
            "no token was given", f"set {TOKEN_VARIABLE}, or give it with --token-file or on stdin"
        )
    return token


@app.command()
def run() -> int:
    """Connect this machine and answer, until SIGTERM or Ctrl-C."""
    from hermes_nodes.audit import AuditLog  # noqa: PLC0415 - aiohttp and more, which `join` needs not
    from hermes_nodes.cli.serve import run_loop, set_up_logging, stop_signal  # noqa: PLC0415
    from hermes_nodes.node.agent import NodeAgent, tls_settings  # noqa: PLC0415
    from hermes_nodes.node.signals import hear_ignored  # noqa: PLC0415
    from hermes_nodes.node.state import StateFile  # noqa: PLC0415
    from hermes_nodes.protocol.messages import MAX_CALLS  # noqa: PLC0415

    settings = _loaded()
    lock = _lock(settings.path)
    set_up_logging("text", settings.log_level, settings.log_path)
    tls_settings(settings)  # wrong ones are better told now than at every dial
    os.umask(0o022)
    hear_ignored()

    async def run_until_stopped() -> int:
        # Disk work waits in threads, and calls that wait must not keep others from being ended.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(MAX_CALLS + _SPARE_THREADS))
        with AuditLog(settings.path.with_name("audit.log")) as trail:
            agent = NodeAgent(settings, trail, StateFile(settings.path).write)
            work = asyncio.create_task(agent.run())
            stopped = asyncio.create_task(stop_signal())
            await asyncio.wait([work, stopped], return_when=asyncio.FIRST_COMPLETED)
            agent.stop()
            stopped.cancel()
            await work
        return 0

    say(f"node {settings.name!r} connects to {settings.server_url}")
    gc.enable()
    try:
        return run_loop(run_until_stopped())
    finally:
        os.close(lock)


def _lock(path: Path) -> int:
    """The descriptor that keeps a second node of these settings away: the two would replace each other."""
    lock = open_private(path.with_name("node.lock"))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise Unavailable(
            f"a node already runs on {path}",
            "`hermes-nodes node status` shows it; for another one set HERMES_NODE_CONFIG",
        ) from None
    return lock


@app.command()
def status(as_json: Json = False) -> None:
    """Show this machine's settings, and whether its node runs and is connected."""
    from hermes_nodes.node.state import StateFile  # noqa: PLC0415 - not for the others

    settings = _loaded()
    state = StateFile(settings.path).read() or {"state": "not running"}
    facts: dict[str, object] = {
        "name": settings.name,
        "server_url": settings.server_url,
        "allowed_paths": list(settings.allowed_paths),
        "exec": settings.exec,
        "config": str(settings.path),
        **state,
    }
    if as_json:
        print_json(facts)
    else:
        print_facts(facts)


def _loaded() -> "NodeConfig":
    settings = config.load(config.config_path(os.environ))
    for warning in settings.warnings:
        say(f"warning: {warning}")
    return settings


APPS = {"node": app}
