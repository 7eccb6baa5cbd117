"""The tree of commands, each loaded from a module of its own when it is used."""

import importlib
import os
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn

import typer
from typer._click import Command, Context
from typer._click.exceptions import ClickException, NoArgsIsHelpError
from typer.core import TyperGroup
from typer.main import get_command

from hermes_nodes.cli import COMPLETE_VARIABLE, PROGRAM
from hermes_nodes.cli.output import print_error
from hermes_nodes.errors import HermesNodesError

#: Where each command lives, in the order of `--help`.
_MODULES = {
    "serve": "serve",
    "pair": "pair",
    "list": "list",
    "exec": "exec",
    "shell": "shell",
    "session": "session",
    "read": "files",
    "write": "files",
    "cp": "copy",
    "jobs": "jobs",
    "logs": "jobs",
    "wait": "jobs",
    "kill": "jobs",
    "revoke": "revoke",
    "rotate": "rotate",
    "label": "label",
    "operator": "operator",
    "key": "key",
    "audit": "audit",
    "status": "status",
    "node": "node",
    "demo": "demo",
    "completion": "completion",
}


class Commands(TyperGroup):
    """Imports a command's module when the command is asked for."""

    def list_commands(self, ctx: Context) -> list[str]:  # noqa: ARG002 - click's interface
        return list(_MODULES)

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:  # noqa: ARG002 - the same
        if cmd_name not in _MODULES:
            return None
        module = importlib.import_module(f"hermes_nodes.cli.{_MODULES[cmd_name]}")
        apps: dict[str, typer.Typer] = module.APPS
        command = get_command(apps[cmd_name])
        command.name = cmd_name
        return command


class Choices(NamedTuple):
    """What was given before the command."""

    gateway: str | None
    operator_token_file: Path | None


app = typer.Typer(
    cls=Commands,
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(value: bool) -> None:
    if value:
        from hermes_nodes import __version__  # noqa: PLC0415 - the other commands have no use for it

        typer.echo(__version__)
        raise typer.Exit


@app.callback(invoke_without_command=False)
def hermes_nodes(
    context: typer.Context,
    gateway: Annotated[
        str | None,
        typer.Option(
            "--gateway",
            envvar="HERMES_NODES_GATEWAY",
            metavar="SOCKET|URL",
            help="The gateway: its control socket, or https://HOST:PORT. Default: the socket of this home.",
        ),
    ] = None,
    operator_token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="An operator's token, for a URL. Or set HERMES_NODES_OPERATOR_TOKEN.",
        ),
    ] = None,
    no_color: Annotated[
        bool, typer.Option("--no-color", help="No colours, as with NO_COLOR in the environment.")
    ] = False,
    version: Annotated[  # noqa: ARG001 - its callback has done the work
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version."),
    ] = False,
) -> None:
    """Run commands on machines behind NAT, as dependably as over ssh.

    An operator runs `serve`; machines run `node run` and stay connected to it; then `exec`, `read` and
    `write` reach them. Everything is in the audit trail.
    """
    if no_color:
        os.environ["NO_COLOR"] = "1"
    context.obj = Choices(gateway, operator_token_file)


def run_app(arguments: list[str]) -> int:
    """Run a command line; every failure becomes an error line and an exit code here."""
    commands = get_command(app)
    if os.environ.get(COMPLETE_VARIABLE):
        _complete(commands)
    try:
        return _invoke(commands, arguments)
    except ClickException as error:
        _print_usage_error(error)
        return 2
    except HermesNodesError as error:
        print_error(error.message, error.hint)
        return error.exit_status
    except (KeyboardInterrupt, typer.Abort):
        print_error("interrupted")
        return 130
    except OSError as error:
        if error.filename is None:
            raise  # it was about our own output
        print_error(f"{error.filename}: {error.strerror}")
        return 1


def _invoke(commands: Command, arguments: list[str]) -> int:
    """Not by click's `main`, which has answers of its own to Ctrl-C and to a broken pipe."""
    try:
        with commands.make_context(PROGRAM, arguments) as context:
            result: Any = commands.invoke(context)
    except typer.Exit as ended:
        return ended.exit_code
    return result if isinstance(result, int) else 0


def _complete(commands: Command) -> NoReturn:
    """Answer a shell that completes a command line, which is in the environment."""
    from typer._completion_classes import completion_init  # noqa: PLC0415 - only when a shell completes

    completion_init()
    commands.main([], PROGRAM, COMPLETE_VARIABLE)
    raise SystemExit


def _print_usage_error(error: ClickException) -> None:
    if isinstance(error, NoArgsIsHelpError):
        error.show()
        return
    context: Context | None = getattr(error, "ctx", None)
    path = context.command_path if context else PROGRAM
    print_error(error.format_message(), f"`{path} --help` shows what it takes")
