"""Writing rows and looking at what became of them."""

from pathlib import Path

from hermes_nodes.audit import AuditLog, Trail

SMALL = 1000  # bytes: three rows fill a file


def write(log: AuditLog, first: int, last: int) -> None:
    for number in range(first, last):
        log.append(action="exec", status="ok", exit_code=number)


def numbers(rows: list[dict[str, object]]) -> list[object]:
    return [row["exit_code"] for row in rows]


def rotated(path: Path) -> list[Path]:
    return sorted(file for file in path.parent.iterdir() if file.name != path.name)


def read(path: Path) -> list[dict[str, object]]:
    with Trail(path) as trail:
        return list(trail.read())
