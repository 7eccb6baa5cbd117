"""What a node keeps of its jobs is set in its config.toml, as sizes and times with their units."""

from pathlib import Path

import pytest

from hermes_nodes.errors import SettingsError
from hermes_nodes.node import config
from hermes_nodes.node.job_limits import JobLimits

MIB = 1024 * 1024


def limits(folder: Path, *lines: str) -> JobLimits:
    path = folder / "config.toml"
    path.write_text(
        '[node]\nserver_url = "ws://gateway"\nname = "laptop"\ntoken = "t"\n' + "\n".join(lines)
    )
    path.chmod(0o600)
    return config.load(path).jobs


def test_without_settings_there_are_bounds(tmp_path: Path) -> None:
    assert limits(tmp_path) == JobLimits(64 * MIB, 1024 * MIB, 7 * 24 * 3600)


def test_every_bound_can_be_set(tmp_path: Path) -> None:
    lines = ('jobs_max_bytes = "1M"', 'jobs_total_bytes = "2G"', 'jobs_keep = "12h"')
    assert limits(tmp_path, *lines) == JobLimits(MIB, 2048 * MIB, 12 * 3600)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('jobs_max_bytes = "much"', "is not a size"),
        ('jobs_max_bytes = "1K"', "too little"),
        ('jobs_total_bytes = "0"', "too little"),
        ('jobs_keep = "a week"', "is not a duration"),
        ("jobs_keep = 7", "wrong kind"),
    ],
)
def test_what_is_no_bound_is_refused_with_its_key(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words) as refused:
        limits(tmp_path, line)
    assert f"`{line.split(maxsplit=1)[0]}` in [node]" in refused.value.message
