"""`audit verify` of what is not there does not look like a trail that is well."""

from tests.harness import Home


def test_a_trail_that_is_not_there_is_not_found(empty_home: Home) -> None:
    for path in ([], [str(empty_home.folder / "nope.log")]):
        done = empty_home.run("audit", "verify", *path)
        assert (done.returncode, done.stdout) == (66, b"")
        assert b"there is no trail" in done.stderr
