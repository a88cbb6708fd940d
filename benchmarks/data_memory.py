"""What opening a set of shards costs one process: seconds and resident memory. Prints one line of JSON.

python -m benchmarks.data_memory FOLDER
"""

import json
import sys
import time
from pathlib import Path

import limoe  # noqa: F401  (first: makes torchvision importable beside a CPU-only torch)

# isort: split
from limoe.data.shards.tar_shards import TarShards

READ = 2000  # pairs that are read after opening


def resident() -> dict[str, int]:
    """Bytes of this process that lie in memory: its own, and pages of mapped files (which the system may take back)."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: 1024 * int(fields[field].split()[0]) for name, field in (("own", "RssAnon"), ("mapped", "RssFile"))}


def main() -> None:
    before, start, cpu = resident(), time.perf_counter(), time.process_time()
    source = TarShards(root=sys.argv[1], split="train")
    seconds, cpu, after = time.perf_counter() - start, time.process_time() - cpu, resident()
    for i in range(0, len(source), max(1, len(source) // READ)):
        source[i]
    read = resident()
    found = {"pairs": len(source), "seconds": seconds, "cpu_seconds": cpu}
    found |= {f"{name}_opened": after[name] - before[name] for name in before}
    found |= {f"{name}_read": read[name] - before[name] for name in before}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
