"""`exec`: run a command on a node; its output, its exit code, nothing else on stdout."""

from typing import Annotated, NamedTuple

import typer

from hermes_nodes.cli.home import client, paired_names
from hermes_nodes.cli.interrupts import Interrupts, interrupts
from hermes_nodes.cli.options import Json, checked, command, duration, pairs
from hermes_nodes.cli.output import print_data, print_error, print_json, say, say_note, write_all
from hermes_nodes.cli.results import LEFT_HINT, answered, failed
from hermes_nodes.client import Client, Kept, exec_body
from hermes_nodes.errors import CallCancelled, HermesNodesError, UsageError, from_wire

_STDIN_FD, _STDOUT_FD = 0, 1
#: What a TARGET holds that is written as several nodes, however many match it.
_SEVERAL = set(",*?[")


def execute(
    context: typer.Context,
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="A node; or names and globs with commas, label:K=V, or all.",
            autocompletion=paired_names,
        ),
    ],
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="COMMAND...",
            help="One word goes to the node's shell, several are run as they are.",
        ),
    ],
    cwd: Annotated[
        str | None, typer.Option(metavar="PATH", help="Directory on the node. Default: home.")
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option(metavar="K=V", help="A variable for the command; may be repeated.")
    ] = None,
    timeout: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="End it after this: 30s. Default: never; older nodes: 60s."),
    ] = None,
    session: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Keep directory and exported variables under this name."),
    ] = None,
    stdin: Annotated[
        bool, typer.Option("--stdin", "-i", help="Give the command our stdin. Default: an empty one.")
    ] = False,
    tty: Annotated[
        bool, typer.Option("--tty", "-t", help="Give the command our terminal. ~. on a new line leaves it.")
    ] = False,
    max_parallel: Annotated[
        str | None, typer.Option(metavar="N|N%", help="Of several nodes, so many at once. Default: all.")
    ] = None,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Of several nodes, end all when one has failed.")
    ] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Start it as a job of the node, print the job's id, and leave.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Run a command on nodes, as with ssh: options come before TARGET, the rest is the command."""
    arguments = words[1:] if words[0] == "--" else words
    if not arguments:
        raise typer.BadParameter("there is no command to run")
    body = exec_body(
        target,
        arguments[0] if len(arguments) == 1 else arguments,
        cwd=cwd,
        env=pairs(env or [], "--env"),
        timeout=duration(timeout),
        session=session,
        stdin=stdin,
        detach=detach,
    )
    _refuse_together(detach=detach, stdin=stdin or tty, session=session, tty=tty, as_json=as_json)
    order = _Order(target, body, stdin=stdin, tty=tty, max_parallel=max_parallel, fail_fast=fail_fast)
    gateway = client(context)
    return _as_json(gateway, order) if as_json else _carry_out(gateway, order, None)


class _Order(NamedTuple):
    """What was asked for; ``body`` is the request."""

    target: str
    body: dict[str, object]
    stdin: bool
    tty: bool
    max_parallel: str | None
    fail_fast: bool

    @property
    def content(self) -> int | None:
        return _STDIN_FD if self.stdin else None


def _refuse_together(*, detach: bool, stdin: bool, session: str | None, tty: bool, as_json: bool) -> None:
    if detach and (stdin or session is not None):
        raise typer.BadParameter("a detached job has no input and no session: leave out -i, -t, --session")
    if tty and as_json:
        raise typer.BadParameter("a terminal's output is for a person: leave out --tty or --json")


def _carry_out(gateway: Client, order: _Order, document: "_Object | None") -> int:
    if _names_several(gateway, order.target):
        return _on_several(gateway, order, as_json=document is not None)
    if order.tty:
        from hermes_nodes.cli.terminal import attend  # noqa: PLC0415 - for terminals alone

        return attend(gateway, order.body)
    with interrupts(ends_slowly=True) as caught:
        if document is not None:
            return document.of_call(gateway, order, caught)
        return _live(gateway, order, caught)


def _on_several(gateway: Client, order: _Order, *, as_json: bool) -> int:
    from hermes_nodes.cli import many  # noqa: PLC0415 - one node is the rule

    detach = bool(order.body["detach"])
    if order.stdin or order.tty or detach:
        option = "--detach starts a job on" if detach else "our terminal or stdin goes to"
        raise typer.BadParameter(f"{option} one node, not several")
    parallel = None if order.max_parallel is None else checked(many.parse_parallel, order.max_parallel)
    return many.execute(
        gateway, order.target, order.body, parallel=parallel, fail_fast=order.fail_fast, as_json=as_json
    )


def _live(gateway: Client, order: _Order, caught: Interrupts) -> int:
    """Output as it comes, then the command's exit code."""
    answer = gateway.call(
        order.body, write_all, order.content, watch=(_STDOUT_FD,), interrupt=caught.fd, note=say_note
    )
    if answer.get("status") == "started":
        print_data(str(answer["job"]))
        return 0
    if answer.get("truncated"):
        say("warning: the output was cut: there was more than this call could carry (7 MiB on older nodes)")
    return exit_code(answer)


def _names_several(gateway: Client, target: str) -> bool:
    """Whether a TARGET is written as several nodes; a name that exists as written always wins."""
    if target != "all" and not target.startswith("label:") and not _SEVERAL & set(target):
        return False
    return [node["name"] for node in gateway.nodes(target)] != [target]


def exit_code(answer: dict[str, object]) -> int:
    """The command's own exit code, unless something ended it."""
    error = answer.get("error")
    if isinstance(error, dict):
        ended = from_wire(error)
        print_error(ended.message, ended.hint)
        return ended.exit_status
    code = answer.get("exit_code")
    return code if isinstance(code, int) else 1


def _as_json(gateway: Client, order: _Order) -> int:
    """An object in every case, also when nothing ran; a usage error alone has none."""
    document = _Object()
    try:
        return _carry_out(gateway, order, document)
    except UsageError:
        raise
    except HermesNodesError as error:
        return document.of_failure(order.target, error)
    except KeyboardInterrupt:
        return document.of_failure(order.target, CallCancelled("interrupted", LEFT_HINT))


class _Object:
    """The one object of `--json`, printed once whatever comes afterwards."""

    def __init__(self) -> None:
        self._kept = Kept()
        self._is_printed = False

    def of_call(self, gateway: Client, order: _Order, caught: Interrupts) -> int:
        answer = gateway.call(order.body, self._kept.add, order.content, interrupt=caught.fd, note=say_note)
        started = answer.get("status") == "started"
        self._print({**answered(answer, self._kept), **({"job": answer["job"]} if started else {})})
        return 0 if started else exit_code(answer)

    def of_failure(self, target: str, error: HermesNodesError) -> int:
        self._print(failed(target, self._kept, error))
        print_error(error.message, error.hint)
        return error.exit_status

    def _print(self, document: dict[str, object]) -> None:
        if not self._is_printed:
            self._is_printed = True
            print_json(document)


APPS = {"exec": command(execute, context_settings={"allow_interspersed_args": False})}
