"""The user whom a node runs as. As with ssh, the password database says where home is, and not HOME."""

import os
import pwd
from typing import NamedTuple


class User(NamedTuple):
    """What a command is told of its user."""

    name: str
    home: str
    shell: str


def current_user() -> User:
    """Whom this process acts as. Of a user that the database does not know, HOME is all there is."""
    uid = os.geteuid()
    try:
        known = pwd.getpwuid(uid)
    except KeyError:
        return User(str(uid), os.environ.get("HOME") or "/", "/bin/sh")
    return User(known.pw_name, known.pw_dir, known.pw_shell or "/bin/sh")


def expand_home(path: str) -> str:
    """``~`` and ``~/…`` from the home of this user, ``~name`` from that of another."""
    if path == "~" or path.startswith("~/"):
        return current_user().home + path[1:]
    return os.path.expanduser(path)
