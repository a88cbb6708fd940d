"""A steady allocator for measurements on a CPU.

glibc gives memory back to the system and fetches it again, at a tenth of the speed of a copy. For layers of a few
hundred MiB that swings a ratio by a factor of two, so benchmarks tell it to keep what it has.

Nothing here may import torch: the settings only count before a process starts.
"""

import os
import sys

SETTINGS = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(16 * 2**30),
    "MALLOC_TOP_PAD_": str(256 * 2**20),
}


def restart_with_steady_allocator(module: str) -> None:
    """Start `python -m <module>` again with the same arguments and the settings, unless they are there."""
    if any(name not in os.environ for name in SETTINGS):
        arguments = [sys.executable, "-m", module, *sys.argv[1:]]
        os.execve(sys.executable, arguments, {**SETTINGS, **os.environ})
