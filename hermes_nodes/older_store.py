"""Where the older system's token store may lie, and where ours then is.

Every command imports this on its way, so it needs nothing but ``os``.
"""

import os
from contextlib import suppress
from pathlib import Path

#: How a Fernet token begins: its version, and the leading zeroes of its time, in base64.
FERNET_HEAD = b"gAAAA"
_SQLITE_HEAD = b"SQLit"


def stores(named: Path) -> tuple[Path, Path | None]:
    """Our token store for a ``token_store_path``, and the older system's if that is what it names.

    Ours lies beside that one: `tokens.json` has it in `tokens.db`. Any other name gets `.db` behind it,
    which tells what the setting means also when the older file is gone.
    """
    beginning = _beginning(named)
    if named.suffix.lower() == ".json" and beginning != _SQLITE_HEAD:
        return named.with_suffix(".db"), named
    beside = named.with_name(f"{named.name}.db")
    is_older = beginning == FERNET_HEAD or (not beginning and beside.exists())
    return (beside, named) if is_older else (named, None)


def left_behind(named: Path | None, home: Path) -> list[Path]:
    """The older system's stores that are there: the one that was named, else what the home contains.

    A link that leads nowhere counts; two ways to the same file are one.
    """
    places = (named,) if named else (home / "nodes" / "tokens.json", home / "tokens.json")
    return list({os.path.realpath(path): path for path in places if os.path.lexists(path)}.values())


def _beginning(path: Path) -> bytes:
    """What tells a Fernet token from a database; nothing where nothing can be read."""
    with suppress(OSError):
        if path.is_file():  # to open a FIFO would wait for whoever writes to it
            with path.open("rb") as file:
                return file.read(len(FERNET_HEAD))
    return b""
