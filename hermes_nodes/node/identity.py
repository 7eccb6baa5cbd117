"""What names one directory for good, however a path to it is spelt, and on whichever node of a machine."""

import hashlib
import os
import platform
from functools import cache
from pathlib import Path


def identity(found: os.stat_result) -> str:
    """Of what was found: the same for the same directory of one machine, and for no other anywhere."""
    text = f"{_machine()} {found.st_dev} {found.st_ino}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]  # nobody is told the numbers themselves


@cache
def _machine() -> str:
    """Device numbers are the kernel's, so that containers have those of their machine."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text().strip() if boot.exists() else platform.node()
