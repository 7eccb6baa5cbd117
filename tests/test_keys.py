"""The token key: where it is found, and how the first one is made."""

import base64
from pathlib import Path

import pytest

from hermes_nodes import config, keys
from hermes_nodes.errors import BadKey, Unavailable
from hermes_nodes.tokens import TokenStore
from tests.support import files_limited_to, mode

VARIABLE = "HERMES_NODES_TOKEN_KEY"
# Fixed, as tests are named after what they put into a file.
KEY_TEXT, OTHER_TEXT = (base64.urlsafe_b64encode(bytes([sign]) * 32).decode() for sign in b"ko")


@pytest.fixture
def settings(tmp_path: Path) -> config.Settings:
    return config.load(environ={"HERMES_HOME": str(tmp_path / "home")})


@pytest.mark.parametrize(
    "content",
    [
        f"{VARIABLE}={KEY_TEXT}",
        f"{VARIABLE}={KEY_TEXT}\r\n",
        f"\ufeff{VARIABLE}={KEY_TEXT}\n",
        f"export {VARIABLE}={KEY_TEXT}\n",
        f'  {VARIABLE} = "{KEY_TEXT}" # made by hand\n',
        f"{VARIABLE}='{KEY_TEXT}'\n",
        f"{VARIABLE}={KEY_TEXT} # a comment\n",
        f"A=b\nnonsense\n#{VARIABLE}=x\nX{VARIABLE}=y\n{VARIABLE}X=y\n{VARIABLE}={KEY_TEXT}\nC=d\n",
        f"{VARIABLE}={OTHER_TEXT}\n{VARIABLE}={KEY_TEXT}\n",
    ],
)
def test_the_key_is_found_in_the_env_file(settings: config.Settings, content: str) -> None:
    settings.home.mkdir()
    settings.env_path.write_bytes(content.encode())
    assert keys.find_key(settings, {}) == KEY_TEXT
    assert keys.ensure_key(settings, {}) == (KEY_TEXT, False)
    assert settings.env_path.read_bytes() == content.encode()


def test_an_exported_key_wins(settings: config.Settings) -> None:
    settings.home.mkdir()
    settings.env_path.write_text(f"{VARIABLE}={OTHER_TEXT}\n")
    assert keys.find_key(settings, {VARIABLE: KEY_TEXT}) == KEY_TEXT
    assert keys.find_key(settings, {VARIABLE: ""}) == OTHER_TEXT


def test_the_settings_may_name_another_variable(tmp_path: Path) -> None:
    environ = {"HERMES_HOME": str(tmp_path), "HERMES_NODES_TOKEN_ENCRYPTION_KEY_ENV": "MY_KEY"}
    settings = config.load(environ=environ)
    assert keys.find_key(settings, {"MY_KEY": KEY_TEXT, VARIABLE: "x"}) == KEY_TEXT


@pytest.mark.parametrize("content", [None, "", f"{VARIABLE}=\n", "OTHER=x\n", f"{VARIABLE}\n"])
def test_no_key_is_no_error_yet(settings: config.Settings, content: str | None) -> None:
    settings.home.mkdir()
    if content is not None:
        settings.env_path.write_text(content)
    assert keys.find_key(settings, {}) is None


def test_a_bad_exported_key_is_named_but_not_shown(settings: config.Settings) -> None:
    with pytest.raises(BadKey, match=f"the exported {VARIABLE} is not") as failure:
        keys.find_key(settings, {VARIABLE: "hunter2-hunter2"})
    assert "hunter2" not in failure.value.message + failure.value.hint
    assert "generate_key" in failure.value.hint


def test_a_bad_key_in_the_file_is_named_but_not_shown(settings: config.Settings) -> None:
    settings.home.mkdir()
    settings.env_path.write_text(f"{VARIABLE}=hunter2\n")
    with pytest.raises(BadKey, match=r"\.env is not a valid") as failure:
        keys.find_key(settings, {})
    assert "hunter2" not in failure.value.message + failure.value.hint


def test_an_env_file_that_can_not_be_read_is_a_clear_error(settings: config.Settings) -> None:
    settings.env_path.mkdir(parents=True)
    with pytest.raises(BadKey, match="can't be read"):
        keys.find_key(settings, {})


def test_the_first_key_is_made_and_saved(no_umask: None, settings: config.Settings) -> None:
    key, is_new = keys.ensure_key(settings, {})
    assert is_new
    assert settings.env_path.read_text() == f"{VARIABLE}={key}\n"
    assert (mode(settings.home), mode(settings.env_path)) == (0o700, 0o600)
    assert keys.ensure_key(settings, {}) == (key, False)
    TokenStore.open(settings.token_store_path, [key]).close()


@pytest.mark.parametrize(
    "content",
    [
        b"A=1\n\n# \xff\x00\r\nB",
        b"A=1\n",
        b"A=1\r\nexport B='2 # 3'\r\n",
        b'# ours goes last\nexport A="x=y"\n\tB = 1 # two',
        b"#HERMES_NODES_TOKEN_KEY=x\nA=1",
    ],
)
def test_a_saved_key_leaves_the_rest_of_the_file_alone(
    no_umask: None, settings: config.Settings, content: bytes
) -> None:
    settings.home.mkdir()
    settings.env_path.write_bytes(content)
    key, _ = keys.ensure_key(settings, {})
    gap = b"" if content.endswith(b"\n") else b"\n"
    assert settings.env_path.read_bytes() == content + gap + f"{VARIABLE}={key}\n".encode()
    assert mode(settings.env_path) == 0o600
    assert [file.name for file in settings.home.iterdir()] == [".env"]


def test_an_env_file_that_is_a_link_stays_one(settings: config.Settings, tmp_path: Path) -> None:
    settings.home.mkdir()
    (tmp_path / "dotenv").write_text("A=1\n")
    settings.env_path.symlink_to(tmp_path / "dotenv")
    key, _ = keys.ensure_key(settings, {})
    assert settings.env_path.is_symlink()
    assert mode(tmp_path / "dotenv") == 0o600
    assert (tmp_path / "dotenv").read_text() == f"A=1\n{VARIABLE}={key}\n"


def test_no_key_is_made_where_a_store_is(settings: config.Settings) -> None:
    TokenStore.open(settings.token_store_path, [KEY_TEXT]).close()
    with pytest.raises(BadKey, match="no key for") as failure:
        keys.ensure_key(settings, {})
    assert VARIABLE in failure.value.hint
    assert str(settings.env_path) in failure.value.hint
    assert not settings.env_path.exists()
    assert keys.ensure_key(settings, {VARIABLE: KEY_TEXT}) == (KEY_TEXT, False)


def test_no_key_is_made_where_the_older_system_has_left_a_store(settings: config.Settings) -> None:
    with pytest.raises(BadKey, match="no key for the token store /older") as failure:
        keys.ensure_key(settings, {}, Path("/older"))
    assert VARIABLE in failure.value.hint
    assert not settings.env_path.exists()
    assert keys.ensure_key(settings, {VARIABLE: KEY_TEXT}, Path("/older")) == (KEY_TEXT, False)


def test_an_empty_store_file_is_no_store_yet(settings: config.Settings) -> None:
    settings.nodes_dir.mkdir(parents=True)
    settings.token_store_path.touch()
    assert keys.ensure_key(settings, {})[1]


def test_a_key_that_can_not_be_saved_leaves_the_old_file(settings: config.Settings) -> None:
    settings.home.mkdir()
    settings.env_path.write_text("A=1\nB=22222222\n")
    with files_limited_to(10), pytest.raises(Unavailable, match="can't be saved") as failure:
        keys.ensure_key(settings, {})
    assert VARIABLE in failure.value.hint
    assert settings.env_path.read_text() == "A=1\nB=22222222\n"
    assert [file.name for file in settings.home.iterdir()] == [".env"]
