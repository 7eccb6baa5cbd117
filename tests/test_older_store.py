"""Where the older system's token store is looked for, and where ours is then."""

from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from hermes_nodes import config, older_store
from hermes_nodes.tokens import TokenStore
from tests.older_home import sealed

KEY = Fernet.generate_key()


@pytest.mark.parametrize(
    ("named", "store"),
    [("tokens.json", "tokens.db"), ("old.JSON", "old.db"), ("a.b.json", "a.b.db")],
)
def test_a_setting_that_names_a_json_file_means_the_older_store(
    tmp_path: Path, named: str, store: str
) -> None:
    assert older_store.stores(tmp_path / named) == (tmp_path / store, tmp_path / named)


@pytest.mark.parametrize("named", ["tokens", "tokens.db", "tokens.enc"])
def test_a_file_that_begins_like_a_fernet_token_is_an_older_store(tmp_path: Path, named: str) -> None:
    path, store = tmp_path / named, tmp_path / f"{named}.db"
    path.write_bytes(sealed([]))
    assert older_store.stores(path) == (store, path)
    # Once ours is there, the older one may go.
    TokenStore.open(store, [KEY]).close()
    path.unlink()
    assert older_store.stores(path) == (store, path)


@pytest.mark.parametrize("named", ["tokens.db", "tokens", "tokens.json"])
def test_a_store_of_ours_stays_ours_whatever_its_name(tmp_path: Path, named: str) -> None:
    path = tmp_path / named
    TokenStore.open(path, [KEY]).close()
    TokenStore.open(tmp_path / f"{named}.db", [KEY]).close()
    assert older_store.stores(path) == (path, None)


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, str])
def test_what_is_not_there_yet_is_to_be_ours(tmp_path: Path, make: object) -> None:
    assert callable(make)
    make(tmp_path / "tokens.db")
    assert older_store.stores(tmp_path / "tokens.db") == (tmp_path / "tokens.db", None)


def test_a_home_contains_an_older_store_in_either_of_two_places(tmp_path: Path) -> None:
    (tmp_path / "nodes").mkdir()
    first, second = tmp_path / "nodes" / "tokens.json", tmp_path / "tokens.json"
    assert older_store.left_behind(None, tmp_path) == []
    second.touch()
    assert older_store.left_behind(None, tmp_path) == [second]
    first.touch()
    assert older_store.left_behind(None, tmp_path) == [first, second]


def test_one_that_is_named_is_the_only_one(tmp_path: Path) -> None:
    named = tmp_path / "elsewhere" / "tokens.json"
    (tmp_path / "tokens.json").touch()
    assert older_store.left_behind(named, tmp_path) == []
    named.parent.mkdir()
    named.touch()
    assert older_store.left_behind(named, tmp_path) == [named]


def test_a_link_counts_as_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "nodes").mkdir()
    (tmp_path / "nodes" / "tokens.json").symlink_to(tmp_path / "tokens.json")
    assert older_store.left_behind(None, tmp_path) == [tmp_path / "nodes" / "tokens.json"]
    (tmp_path / "tokens.json").touch()
    assert len(older_store.left_behind(None, tmp_path)) == 1


def test_the_settings_name_both_stores(tmp_path: Path) -> None:
    environ = {"HERMES_HOME": str(tmp_path)}
    settings = config.load(environ=environ)
    assert (settings.token_store_path, settings.older_store_path) == (tmp_path / "nodes/tokens.db", None)
    (tmp_path / "hermes-node.yaml").write_text("token_store_path: old/tokens.json\n")
    settings = config.load(environ=environ)
    assert settings.token_store_path == tmp_path / "old" / "tokens.db"
    assert settings.older_store_path == tmp_path / "old" / "tokens.json"
