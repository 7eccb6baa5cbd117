"""One gateway and one node for all tests of this folder."""

from collections.abc import Iterator

import pytest

from tests.security.place import Place, place


@pytest.fixture(scope="session", name="place")
def _place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory.mktemp("security")) as shared:
        yield shared
