"""`exec`: run a command on a node; its output, its exit code, nothing else on stdout."""

from typing import Annotated

import typer

from hermes_nodes.cli.home import client, paired_names
from hermes_nodes.cli.interrupts import Interrupts, interrupts
from hermes_nodes.cli.options import Json, command, duration, pairs
from hermes_nodes.cli.output import bytes_fields, print_error, print_json, say, say_note, write_all
from hermes_nodes.client import Client, Kept, exec_body, exec_result
from hermes_nodes.errors import HermesNodesError, UsageError, from_wire

_STDIN_FD, _STDOUT_FD = 0, 1
#: Signs by which a TARGET is written as several nodes.
_SEVERAL = set(",*?[")


def execute(
    context: typer.Context,
    target: Annotated[
        str, typer.Argument(metavar="NODE", help="A paired node's name.", autocompletion=paired_names)
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
    as_json: Json = False,
) -> int:
    """Run a command on a node, as with ssh: options come before NODE, the rest is the command."""
    arguments = words[1:] if words[0] == "--" else words
    if not arguments:
        raise typer.BadParameter("there is no command to run")
    if target == "all" or target.startswith("label:") or _SEVERAL & set(target):
        raise UsageError(f"{target!r} names several nodes", "exec runs on one node, by its name")
    body = exec_body(
        target,
        arguments[0] if len(arguments) == 1 else arguments,
        cwd=cwd,
        env=pairs(env or [], "--env"),
        timeout=duration(timeout),
        session=session,
        stdin=stdin,
    )
    content = _STDIN_FD if stdin else None
    gateway = client(context)
    with interrupts() as caught:
        if as_json:
            return _as_json(gateway, body, content, caught)
        answer = gateway.call(
            body,
            write_all,
            content,
            watch=(_STDOUT_FD,),
            interrupt=caught.fd,
            note=say_note,
        )
    if answer.get("truncated"):
        say("warning: the output was cut: there was more than this call could carry (7 MiB on older nodes)")
    return _exit_code(answer)


def _exit_code(answer: dict[str, object]) -> int:
    """The command's own exit code, unless something ended it."""
    error = answer.get("error")
    if isinstance(error, dict):
        ended = from_wire(error)
        print_error(ended.message, ended.hint)
        return ended.exit_status
    code = answer.get("exit_code")
    return code if isinstance(code, int) else 1


def _as_json(gateway: Client, body: dict[str, object], content: int | None, caught: Interrupts) -> int:
    """One object in every case, also when nothing ran."""
    kept = Kept()
    node = str(body["node"])
    try:
        answer = gateway.call(body, kept.add, content, interrupt=caught.fd, note=say_note)
        result = exec_result(answer, kept)
    except HermesNodesError as error:
        print_json(_failed(node, kept, error))
        print_error(error.message, error.hint)
        return error.exit_status
    print_json(
        {
            "node": node,
            "request_id": result.request_id,
            "status": result.status,
            "exit_code": result.exit_code,
            "signal": result.signal,
            **bytes_fields("stdout", result.stdout_bytes),
            **bytes_fields("stderr", result.stderr_bytes),
            "duration_ms": result.duration_ms,
            "truncated": result.truncated,
            "error": result.error,
        }
    )
    return _exit_code({"error": result.error, "exit_code": result.exit_code})


def _failed(node: str, kept: Kept, error: HermesNodesError) -> dict[str, object]:
    return {
        "node": node,
        "request_id": error.request_id,
        "status": error.call_status,
        "exit_code": None,
        "signal": None,
        **bytes_fields("stdout", kept.stdout),
        **bytes_fields("stderr", kept.stderr),
        "duration_ms": None,
        "truncated": kept.truncated,
        "error": error.to_wire(),
    }


APPS = {"exec": command(execute, context_settings={"allow_interspersed_args": False})}
