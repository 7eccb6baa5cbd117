"""What may be a node's name, an operator's, or a label."""

import re

from hermes_nodes.errors import UsageError


def check_name(name: str) -> str:
    """A name fit for a new pairing, else UsageError; those already there may hold more."""
    if name == "all" or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise UsageError(
            f"{name[:80]!r} can't be a node's name",
            "up to 64 letters, digits, dots, underscores or dashes, a letter or digit first; not `all`",
        )
    return name


def check_operator_name(name: str) -> str:
    """A name fit for a new operator, else UsageError."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", name):
        raise UsageError(
            f"{name[:80]!r} can't be an operator's name",
            "up to 64 letters, digits, dots, underscores, dashes or @, a letter or digit first",
        )
    return name


def check_label(text: str) -> tuple[str, str]:
    """Key and value of ``K=V``, else UsageError."""
    key, equals, value = text.partition("=")
    good_key = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}", key)
    if not (good_key and equals and re.fullmatch(r"[^,]{0,63}", value) and value.isprintable()):
        raise UsageError(
            f"{text[:80]!r} can't be a label",
            "write K=V: K of letters, digits and ._/-, V without commas, each up to 63 characters",
        )
    return key, value
