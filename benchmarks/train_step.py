"""A whole training step of the sparse model against its FLOP-matched dense baseline, two towers and open_clip.

    python -m benchmarks.train_step --quick
    python -m benchmarks.train_step model=limoe_s32 data.batch_size=64 --device cuda --dtype bfloat16

Words with `=` are overrides of `limoe train`. All see the same random batch, so the same number of tokens. Every ratio
is the median over pairs of a dense step and one of the other that ran one right after the other; the baseline has 1.00.
`kept` is the share of assignments that got a slot (at the start, before the routers have learned to balance); `others`
the largest share of the machine that other processes took during a pair (`--quiet 0.05` repeats such pairs).
Figures go to `<out>/train_step.json` and `.md`.
"""

from benchmarks.allocator import restart_with_steady_allocator

if __name__ == "__main__":
    restart_with_steady_allocator("benchmarks.train_step")

import argparse
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import limoe  # noqa: F401  (first: makes torchvision importable beside a CPU-only torch)

# isort: split
import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.machine import describe, load_average
from benchmarks.measure import Seconds, timed, timed_pair
from benchmarks.output import begin, publish
from benchmarks.trainers import Settings, TrainStep, contenders
from limoe.config.checks import check
from limoe.config.objects import plain
from limoe.config.places import config_dir, register_resolvers
from limoe.types import Batch

COLUMNS = ("step", "ratio", "min-max", "CPU time", "ms", "kept", "others")
QUICK = ["model.width=64", "model.num_heads=2", "model.mlp_dim=128", "data.batch_size=16"]
Pair = tuple[Seconds, Seconds, float]  # dense, other, share of the machine that neighbours took


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_step", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("overrides", nargs="*", help="of the training config, such as model=limoe_s32 data.batch_size=64")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--dtype", choices=("float32", "bfloat16"), default="float32")
    add("--rounds", type=int, default=7, help="pairs per ratio")
    add("--quiet", type=float, default=1.0, help="repeat pairs in which other processes took more of the machine")
    add("--threads", type=int, default=None)
    add("--out", type=Path, default=Path("logs/benchmarks"))
    add("--quick", action="store_true", help="a tiny model, 3 rounds")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.overrides, chosen.rounds = QUICK + chosen.overrides, 3
    return chosen


def settings_of(overrides: list[str]) -> Settings:
    """The training config; one expert per token, since only then does the baseline cost the same."""
    register_resolvers()
    with initialize_config_dir(str(config_dir("train")), version_base="1.3"):
        cfg = compose("train", overrides=["routing.k=1", *overrides, "paths.output_dir=unused"])
    check(cfg)
    settings = plain(cfg)
    if settings["routing"]["k"] != 1 or not settings["model"].get("moe_layers"):
        raise SystemExit(
            "train_step: needs a sparse one-tower model with routing.k=1, so that its baseline does equal work"
        )
    return settings


def random_batch(settings: Settings, device: str) -> Batch:
    """Full texts: padding would cost open_clip work that we leave out."""
    model, pairs = settings["model"], settings["data"]["batch_size"]
    ids = torch.randint(1, model["vocab_size"], (pairs, model["text_length"]), device=device)
    images = torch.randn(pairs, 3, model["image_size"], model["image_size"], device=device)
    return Batch(images, ids, torch.ones_like(ids, dtype=torch.bool), torch.arange(pairs, device=device))


def measure(steps: dict[str, TrainStep], chosen: argparse.Namespace, console: Console) -> dict[str, list[Pair]]:
    """Pairs of dense and other, round by round; the first round warms up."""
    pairs: dict[str, list[Pair]] = {name: [] for name in steps if name != "dense"}
    for round_ in track(range(chosen.rounds + 1), description="rounds", console=console, transient=True):
        for name, found in pairs.items():
            work = [partial(timed, steps[which], device=chosen.device) for which in ("dense", name)]
            pair = timed_pair(*work, quiet=chosen.quiet if round_ > 0 else 1.0)
            if round_ > 0:
                found.append(pair)
    return pairs


def row(name: str, pairs: list[Pair], kept: float | None) -> dict[str, Any]:
    ratios = [other.wall / dense.wall for dense, other, _ in pairs]
    return {
        "step": name,
        "ratio_min": min(ratios),
        "ratio": median(ratios),
        "ratio_max": max(ratios),
        "cpu_ratio": median(other.cpu / dense.cpu for dense, other, _ in pairs),
        "milliseconds": 1000 * median(other.wall for _, other, _ in pairs),
        "kept": kept,
        "neighbours": max(share for *_, share in pairs),
    }


def run(chosen: argparse.Namespace, console: Console) -> dict[str, Any]:
    settings = settings_of(chosen.overrides)
    model, pairs = settings["model"], settings["data"]["batch_size"]
    autocast = torch.autocast(chosen.device, torch.bfloat16, enabled=chosen.dtype == "bfloat16")
    result: dict[str, Any] = {
        "machine": describe(chosen.device, program="benchmarks.train_step"),
        "dtype": chosen.dtype,
        "rounds": chosen.rounds,
    }
    result |= {"pairs": pairs, "image_tokens": (model["image_size"] // model["patch_size"]) ** 2}
    result |= {"text_tokens": model["text_length"], "model": {k: v for k, v in model.items() if k != "router"}}
    everybody = contenders(settings, random_batch(settings, chosen.device), autocast=autocast)
    steps = {name: step for name, step in everybody.items() if isinstance(step, TrainStep)}
    result["missing"] = {name: reason for name, reason in everybody.items() if isinstance(reason, str)}
    measured = measure(steps, chosen, console)
    dense = row("dense", [(a, a, share) for found in measured.values() for a, _, share in found], None)
    result["rows"] = [dense, *(row(name, found, steps[name].kept) for name, found in measured.items())]
    result["machine"]["load_after"] = load_average()
    return result


def cells(row: dict[str, Any]) -> list[str]:
    span = "" if row["step"] == "dense" else f"{row['ratio_min']:.2f}-{row['ratio_max']:.2f}"
    kept = "" if row["kept"] is None else f"{row['kept']:.1%}"
    times = [f"{row['cpu_ratio']:.2f}", f"{row['milliseconds']:.1f}"]
    return [row["step"], f"{row['ratio']:.2f}", span, *times, kept, f"{row['neighbours']:.0%}"]


def title(result: dict[str, Any]) -> str:
    model = result["model"]
    return (
        f"{result['dtype']}, {result['pairs']} pairs of {result['image_tokens']} + {result['text_tokens']} tokens, "
        f"width {model['width']}, depth {model['depth']}, {model['num_experts']} experts in {len(model['moe_layers'])} "
        f"layers, medians of {result['rounds']} pairs"
    )


def markdown(result: dict[str, Any]) -> str:
    machine = result["machine"]
    lines = [
        f"`{machine['command']}`",
        "",
        f"torch {machine['torch']}, {machine['processor']}, {machine['cores']} cores, ",
    ]
    lines[-1] += (
        f"{machine['threads']} threads, load average {machine['load_before']} before and {machine['load_after']} "
    )
    lines[-1] += f"after; {title(result)}."
    lines += ["", "| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in result["rows"]]
    return "\n".join([*lines, "", *(f"Not measured: {name}: {why}." for name, why in result["missing"].items())]) + "\n"


def main() -> None:
    chosen = arguments()
    console = begin(threads=chosen.threads)
    result = run(chosen, console)
    table = Table(*COLUMNS, title=title(result))
    for found in result["rows"]:
        table.add_row(*cells(found))
    publish(result, name="train_step", out=chosen.out, text=markdown(result), tables=[table], console=console)


if __name__ == "__main__":
    main()
