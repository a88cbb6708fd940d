"""How fast pairs are read, what an index costs, and how long training waits for data.

    python -m benchmarks.data --quick
    python -m benchmarks.data --pairs 200000 --shards 20

Pairs are generated: scenes of `--image-size` pixels as PNG and JPEG with a caption and a label. Pairs per second are
medians over `--rounds` in which all sources take turns; training tensors come out of them (decoded, augmented,
tokenized, in batches). Opening is measured in fresh processes, once without and once with the index, for a tenth of the
shards and for all: memory that belongs to the pairs would be ten times as much. Waiting is time in `next(loader)` over
time of a step of `model=limoe_emoji` at 64 pixels. Figures go to `<out>/data.json` and `.md`.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import limoe  # noqa: F401  (first: makes torchvision importable beside a CPU-only torch)

# isort: split
from tqdm import tqdm

from benchmarks.data_sets import link_shards, pool, write_shards
from benchmarks.data_sources import NAMES, Setting, opened
from benchmarks.data_speed import Reading, emoji_step, timed_reading, waiting
from benchmarks.data_tables import markdown, rich_tables
from benchmarks.machine import describe, load_average
from benchmarks.output import begin, publish
from limoe.data.shards.index import SUFFIX

ROOT = Path(__file__).resolve().parents[1]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--pairs", type=int, default=20_000)
    add("--shards", type=int, default=10)
    add("--image-size", type=int, default=64, help="pixels")
    add("--batch-size", type=int, default=128)
    add("--sources", nargs="+", choices=NAMES, default=list(NAMES))
    add("--workers", type=int, nargs="+", default=[0, 1, 2])
    add("--batches", type=int, default=30, help="per measurement")
    add("--rounds", type=int, default=5)
    add("--steps", type=int, default=20, help="training steps per measurement of waiting; 0: none")
    add("--threads", type=int, default=None, help="of a training step")
    add("--folder", type=Path, default=None, help="for the generated pairs; default: a temporary one")
    add("--out", type=Path, default=Path("logs/benchmarks"))
    add("--quick", action="store_true", help="2,000 pairs, 4 shards, 3 rounds of 5 batches, 5 steps")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.pairs, chosen.shards, chosen.rounds, chosen.batches, chosen.steps = 2000, 4, 3, 5, 5
    if chosen.pairs < chosen.batch_size * max(chosen.batches + 1, chosen.steps + 2):
        parser.error("--pairs must be enough for --batches and --steps of --batch-size")
    return chosen


def generate(folder: Path, chosen: argparse.Namespace) -> tuple[Setting, dict[str, Any]]:
    content = pool(image_size=chosen.image_size)
    start = time.perf_counter()
    write_shards(folder / "shards", content, size=chosen.pairs, shards=chosen.shards)
    seconds = time.perf_counter() - start
    size = sum(path.stat().st_size for path in (folder / "shards").iterdir())
    image = sum(len(pair.image) for pair in content) / len(content)
    setting = Setting(folder, content, folder / "shards", chosen.pairs, chosen.image_size, chosen.batch_size)
    return setting, {"seconds": seconds, "bytes": size, "image_bytes": image}


def opening(setting: Setting) -> list[dict[str, Any]]:
    """Without and with an index, for a tenth of the shards and for all."""
    few = setting.folder / "few"
    count = len(list(setting.shards.glob("*.tar")))
    link_shards(few, of=setting.shards, count=max(1, count // 10))
    rows = []
    for folder in (few, setting.shards):
        for state in ("built", "read"):
            command = [sys.executable, "-m", "benchmarks.data_memory", str(folder)]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
            index = sum(path.stat().st_size for path in folder.glob(f"*{SUFFIX}"))
            rows.append({"index": state, "index_bytes": index, **json.loads(done.stdout)})
    return rows


def speed(setting: Setting, chosen: argparse.Namespace, missing: dict[str, str]) -> list[dict[str, Any]]:
    """One row per source and number of workers; all take turns in every round."""
    sources = {}
    for name in chosen.sources:
        try:
            sources[name] = opened(name, setting)
        except ImportError as error:
            missing[name] = str(error)
    found: dict[tuple[str, int], list[Reading]] = {(n, w): [] for n in sources for w in chosen.workers}
    with tqdm(desc="reading", total=chosen.rounds * len(found), leave=False, disable=None) as bar:
        for _ in range(chosen.rounds):
            for (name, workers), readings in found.items():
                readings.append(timed_reading(sources[name](workers), count=chosen.batches))
                bar.update()
    return [_speed_row(name, workers, readings) for (name, workers), readings in found.items()]


def _speed_row(name: str, workers: int, readings: list[Reading]) -> dict[str, Any]:
    speeds = [reading.pairs / reading.seconds for reading in readings]
    cpu = 1000 * median(reading.cpu / reading.pairs for reading in readings)
    row = {"source": name, "workers": workers, "min": min(speeds), "median": median(speeds), "max": max(speeds)}
    return row | {"cpu_ms": cpu}


def waits(setting: Setting, chosen: argparse.Namespace) -> list[dict[str, Any]]:
    step = emoji_step(image_size=chosen.image_size, vocab_size=setting.tokenizer.vocab_size)
    rows = []
    for name in ("tar", "synthetic"):
        batches = opened(name, setting)
        for workers in tqdm(chosen.workers, desc=f"training on {name}", leave=False, disable=None):
            rows.append({"source": name, "workers": workers, **waiting(batches(workers), step, steps=chosen.steps)})
    return rows


def run(folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """All measurements, with what a reader must know beside them."""
    machine = describe("cpu", program="benchmarks.data")
    missing: dict[str, str] = {}
    setting, generated = generate(folder, chosen)
    result = {"machine": machine, "pairs": chosen.pairs, "shards": chosen.shards, "image_size": chosen.image_size}
    result |= {"batch_size": chosen.batch_size, "batches": chosen.batches, "rounds": chosen.rounds}
    result |= {"generated": generated, "opening": opening(setting), "speed": speed(setting, chosen, missing)}
    result |= {"waiting": waits(setting, chosen) if chosen.steps else [], "missing": missing}
    machine["load_after"] = load_average()
    return result


def main() -> None:
    chosen = arguments()
    console = begin(threads=chosen.threads)
    os.environ.pop("LIMOE_CACHE_DIR", None)  # indexes go beside the generated shards, and away with them
    folder = Path(tempfile.mkdtemp(prefix="limoe-data-", dir=chosen.folder))
    try:
        result = run(folder, chosen)
    finally:
        shutil.rmtree(folder)
    text, tables = markdown(result), rich_tables(result)
    publish(result, name="data", out=chosen.out, text=text, tables=tables, console=console)


if __name__ == "__main__":
    main()
