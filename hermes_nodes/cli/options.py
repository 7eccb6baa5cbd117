"""Options and arguments that several commands share, and how their values are read."""

from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

from hermes_nodes.cli.home import paired_names
from hermes_nodes.config import parse_duration

_T = TypeVar("_T")

NodeName = Annotated[
    str, typer.Argument(metavar="NODE", help="A paired node's name.", autocompletion=paired_names)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def duration(text: str | None) -> float | None:
    """Seconds of an option such as `--timeout 30s`."""
    return None if text is None else checked(parse_duration, text)


def checked(parse: Callable[[str], _T], text: str) -> _T:
    """An option's value; what is wrong with it becomes a usage error."""
    try:
        return parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def pairs(texts: list[str], option: str) -> dict[str, str]:
    """`K=V` options as a mapping."""
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise typer.BadParameter(f"{option} takes K=V, not {text!r}")
        found[key] = value
    return found


def command(function: Callable[..., object], **settings: object) -> typer.Typer:
    """A command as an application of its own, which `cli.app` puts into its tree."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(**settings)(function)  # type: ignore[arg-type]
    return app
