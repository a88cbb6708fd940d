"""Run folders written by hand, for the tests of everything that reads one."""

import csv
import json
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

TOP1 = "val/shapes/zeroshot_top1"


def write_csv(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    keys = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, keys)
        writer.writeheader()
        writer.writerows(rows)


def write_run(folder: Path, *, caption: str = "red circle", dense: bool = False, **record: Any) -> Path:
    """A complete run of 20 steps, sparse in layers 1 and 3 unless `dense`."""
    rows: list[dict[str, object]] = [{"step": s, "train/loss": 4 - s / 10, "train/contrastive": 3.9} for s in range(20)]
    rows += [{"step": s, "val/loss": 3.5, TOP1: s / 40, "val/found/i2t_r1": 0.25} for s in (9, 19)]
    write_csv(folder / "csv" / "metrics.csv", rows if dense else [row | {"train/aux/z": 0.5} for row in rows])
    content = {
        "status": "done",
        "command": "limoe train experiment=scenes",
        "overrides": ["experiment=scenes"],
        "git_commit": "abc1234",
        "versions": {"torch": "2.13.0"},
        "seed": 0,
        "seconds": 151.0,
        "metrics": {TOP1: 0.475, "val/loss": 3.5, "train/loss": 2.1},
        "chance": {TOP1: 0.05},
        "error": None,
    }
    (folder / "run.json").write_text(json.dumps(content | record))
    layers = [] if dense else [1, 3]
    (folder / "config.yaml").write_text(f"model:\n  moe_layers: {layers}\n")
    write_health(folder, layers=layers)
    write_samples(folder, caption=caption)
    return folder


def write_health(folder: Path, *, layers: list[int]) -> None:
    for layer in layers:
        (folder / "routing").mkdir(exist_ok=True)
        with (folder / "routing" / "health.jsonl").open("a") as file:
            for step in (0, 10):
                for modality, load, assignments in (("image", [0.75, 0.25], 400), ("text", [0.0, 1.0], 100)):
                    row: dict[str, object] = {
                        "step": step,
                        "layer": layer,
                        "modality": modality,
                        "success_rate": 0.9 + step / 100,
                    }
                    row |= {"load": load, "local_entropy": 0.5, "global_entropy": 0.6, "dead_experts": load.count(0)}
                    row |= {"assignments": assignments, "effective_experts": 1.82}
                    file.write(json.dumps(row) + "\n")


def write_samples(folder: Path, *, caption: str) -> None:
    (folder / "samples").mkdir(exist_ok=True)
    Image.new("RGB", (32, 32), "red").save(folder / "samples" / "000.png")
    items = [
        {"image": "000.png", "truth": caption, "top": [[caption, 0.7], ["blue square", 0.2], ["dot", 0.1]]},
        {"image": "000.png", "truth": "dot", "top": [["blue square", 0.6], ["dot", 0.3], [caption, 0.1]]},
    ]
    (folder / "samples" / "samples.json").write_text(json.dumps({"task": "shapes", "items": items}))


def trained(
    folder: Path, *, seed: int = 0, experts: int = 8, metrics: dict[str, float] | None = None, **record: Any
) -> Path:
    """A run whose config knows its seed and its folders, each in two places."""
    words = [*([f"model.num_experts={experts}"] if experts != 8 else []), f"seed={seed}", f"hydra.run.dir={folder}"]
    values = {TOP1: 0.4 + seed / 100 + experts / 1000, "val/loss": 2.0} if metrics is None else metrics
    write_run(folder, seed=seed, overrides=["experiment=scenes", *words], **{"metrics": values, **record})
    config = {
        "seed": seed,
        "ckpt_path": None,
        "model": {"num_experts": experts, "moe_layers": [1, 3]},
        "data": {"module": {"seed": seed, "root": "/data"}},
        "callbacks": {"checkpoint": {"dirpath": f"{folder}/checkpoints"}},
        "paths": {"log_dir": str(folder.parent), "output_dir": str(folder)},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def trial(
    folder: Path, *, status: str, variant: str = "wide", seed: int = 0, attempts: int = 1, **changes: Any
) -> Path:
    """A trial of a study, with what its last attempt left behind."""
    for number in range(1, attempts + 1):
        trained(folder / f"try_{number}", seed=seed, **changes)
    folder.mkdir(parents=True, exist_ok=True)
    content = {"status": status, "seconds": 5, "run": f"try_{attempts}" if attempts else None, "error": "why"}
    (folder / "trial.json").write_text(json.dumps(content | {"variant": variant, "seed": seed}))
    return folder
