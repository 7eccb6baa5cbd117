"""A node has one home: that of the password database, whatever HOME it was started with."""

import os
import pwd
from pathlib import Path

import pytest

from hermes_nodes.node import config
from hermes_nodes.node.allowlist import Allowlist
from hermes_nodes.node.commands import prepared
from hermes_nodes.node.config import NodeConfig, check_allowed_path
from hermes_nodes.node.processes import command_environment
from hermes_nodes.node.user import User, current_user, expand_home
from hermes_nodes.protocol.messages import Exec

NODE = NodeConfig(path=Path("/x"), server_url="ws://x", name="x", token="x", allowed_paths=())


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A HOME that is not the user's."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def homes() -> set[str]:
    """Where everything on a node begins that begins at home."""
    place = Allowlist(["/"]).open_parent("x")
    os.close(place.dir_fd)
    allowed = Allowlist(["~"]).open_parent("x")  # and is not refused as outside
    os.close(allowed.dir_fd)
    return {
        os.path.dirname(place.canonical),
        os.path.dirname(allowed.canonical),
        check_allowed_path("~"),
        prepared(NODE, Exec(id="1", command="x")).cwd,
        prepared(NODE, Exec(id="1", command="x", cwd="~")).cwd,
        command_environment("id", {})["HOME"],
        expand_home("~"),
        expand_home("~/x").removesuffix("/x"),
    }


def test_home_is_that_of_the_password_database(elsewhere: Path) -> None:
    assert homes() == {pwd.getpwuid(os.geteuid()).pw_dir}


def test_of_a_user_whom_nobody_knows_home_is_what_the_environment_says(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(uid: int) -> pwd.struct_passwd:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert current_user() == User(str(os.geteuid()), str(elsewhere), "/bin/sh")
    assert homes() == {str(elsewhere)}
    monkeypatch.delenv("HOME")
    assert current_user().home == "/"


def test_another_user_can_be_named(elsewhere: Path) -> None:
    root = pwd.getpwuid(0)
    assert expand_home(f"~{root.pw_name}/x") == f"{root.pw_dir}/x"
    assert expand_home("/a/~") == "/a/~"


def test_a_home_that_the_call_gives_is_the_commands_alone(tmp_path: Path) -> None:
    plan = prepared(NODE, Exec(id="1", command="x", env={"HOME": str(tmp_path)}))
    assert plan.environment["HOME"] == str(tmp_path)
    assert plan.cwd == current_user().home


def test_the_settings_themselves_are_found_by_home(elsewhere: Path) -> None:
    assert config.config_path(os.environ) == elsewhere / ".hermes-node" / "config.toml"
