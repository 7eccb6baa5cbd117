"""Strings that somebody else wrote, made fit to be shown."""


def printable(text: object, most: int | None = None) -> str:
    """Without control characters, so that a node's or a peer's words can't move a terminal's cursor.

    At most so many characters, where a limit is given.
    """
    shown = str(text)[:most]
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in shown)
