"""How far a copy has come, as a bar on a terminal; elsewhere nothing."""

import os
import sys
from typing import TYPE_CHECKING, Any

from hermes_nodes.text import printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

#: Characters of a file's name beside its bar.
_MAX_NAME = 40


class NoBar:
    """For a stderr that nobody watches."""

    def begin(self, name: str, size_bytes: int | None) -> None: ...
    def skip(self, size: int) -> None: ...
    def advance(self, size: int) -> None: ...
    def end(self) -> None: ...
    def close(self) -> None: ...


class Bar:
    """One bar at a time, with the rate and the time that is left; ``close`` takes it away."""

    def __init__(self) -> None:
        self._progress = _progress()
        self._task: TaskID | None = None
        self._total: int | None = None
        self._skipped = 0

    def begin(self, name: str, size_bytes: int | None) -> None:
        self.end()
        self._total = size_bytes
        self._skipped = 0
        shown = printable(name)
        shown = shown if len(shown) <= _MAX_NAME else f"…{shown[1 - _MAX_NAME :]}"
        self._task = self._progress.add_task(shown, total=size_bytes)

    def skip(self, size: int) -> None:
        """Bytes that are there already: no part of the rate."""
        self._skipped += size
        if self._task is not None:
            total = None if self._total is None else self._total - self._skipped
            self._progress.update(self._task, total=total)

    def advance(self, size: int) -> None:
        if self._task is not None:
            self._progress.advance(self._task, size)

    def end(self) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = None

    def close(self) -> None:
        self.end()
        self._progress.stop()


def bar() -> Bar | NoBar:
    """What stderr is fit for."""
    return Bar() if sys.stderr.isatty() else NoBar()


def _progress() -> "Progress":
    from rich.console import Console  # noqa: PLC0415 - only a terminal needs it, and it takes 50 ms to load
    from rich.progress import (  # noqa: PLC0415 - the same
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.text import Text  # noqa: PLC0415 - the same

    class Unwrapped(Console):
        """Leaves lines of talk whole, so that they can be copied: the terminal breaks them."""

        def print(self, *objects: Any, **options: Any) -> None:
            if all(isinstance(one, Text) for one in objects):
                options.setdefault("soft_wrap", True)
            super().print(*objects, **options)

    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Unwrapped(stderr=True, color_system=None if os.environ.get("NO_COLOR") else "auto"),
        transient=True,
        redirect_stdout=False,  # which is data
    )
    progress.start()
    return progress
