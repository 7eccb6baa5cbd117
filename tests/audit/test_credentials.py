"""Which names say that a secret follows, also where their words are run together."""

import pytest

from hermes_nodes.audit.credentials import is_secret

SECRET = [
    "PASSWORD", "DB_PASSWORD", "PGPASSWORD", "MYSQL_PWD", "DBPASS", "dbpass", "DBPWD", "ROOTPWD",
    "USERPASS", "SSHPASS", "PASSWORD1", "DBPASS2", "DB_PASS_PROD", "PASSWORDPROD", "APIKEY", "API_KEY",
    "apiKey", "MYAPIKEY", "ACCESSKEY", "AWS_SECRET_ACCESS_KEY", "SECRETKEY", "ENCRYPTIONKEY",
    "MASTERKEY", "authtoken", "GITHUB_TOKEN", "client_secret", "clientSecret", "--db-pass",
    "-storepass", "X-Api-Key", "Authorization", "Set-Cookie", "X-Auth-Token", "_auth",
]  # fmt: skip
ORDINARY = [
    "PWD", "OLDPWD", "keyboard", "monkey", "bypass", "BYPASS", "compass", "COMPASS", "encompass",
    "trespass", "overpass", "highpass", "passive", "passenger", "secretary", "tokenizer", "MAX_TOKENS",
    "KEY", "PRIMARY_KEY", "primarykey", "PUBLIC_KEY", "foreignkey", "sortkey", "hotkey", "keymap",
    "passthrough", "PASSWORD_FILE", "passwordfile", "passwordless", "--password-file", "token_ttl",
    "TOKEN_URL", "secret_id", "SSH_AUTH_SOCK", "NOPASSWD", "author", "--passive", "--no-bypass",
]  # fmt: skip


@pytest.mark.parametrize("name", SECRET)
def test_a_name_that_says_so_is_of_a_secret(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize("name", ORDINARY)
def test_a_name_that_only_looks_like_one_is_not(name: str) -> None:
    assert not is_secret(name)
