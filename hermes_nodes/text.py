"""Strings that somebody else wrote, made fit to be shown."""


def printable(text: object) -> str:
    """Without control characters, so that a node's or a peer's words can't move a terminal's cursor."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in str(text))
