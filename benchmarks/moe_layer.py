"""One sparse layer against the dense MLP with the same arithmetic, forward and backward.

    python -m benchmarks.moe_layer --quick
    python -m benchmarks.moe_layer --device cuda --width 768 --hidden 3072

Every ratio is the median over pairs of a dense and a sparse step that ran one right after the other; 1.00 is perfect.
`kept` is the share of (token, choice) pairs that got a slot, "at equal kept" the ratio divided by it. Memory is the
peak of one step beyond weights and their gradients; `others` the largest share of the machine that other processes
took during a pair (`--quiet 0.05` repeats a pair until they took less than 5 %).
Figures go to `<out>/moe_layer.json` and `.md`.
"""

from benchmarks.allocator import restart_with_steady_allocator

if __name__ == "__main__":
    restart_with_steady_allocator("benchmarks.moe_layer")

import argparse
import gc
import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import limoe  # noqa: F401  (first: makes torchvision importable beside a CPU-only torch)

# isort: split
from rich.console import Console
from rich.progress import Progress

from benchmarks.cases import PAIRS, TEXT_TOKENS, Case
from benchmarks.contenders import CAPACITY_FACTOR, PEERS, Contender, Dense, Sparse, Unavailable, build_peer
from benchmarks.machine import describe, load_average
from benchmarks.measure import Seconds, peak_bytes, timed_pair, timed_step, waits_for_device
from benchmarks.output import begin, publish
from benchmarks.tables import markdown, rich_table
from limoe.models.expert_backends import BACKENDS

Pair = tuple[Seconds, Seconds, float]  # dense, sparse, share of the machine that others took


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.moe_layer", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--width", type=int, default=384)
    add("--hidden", type=int, default=1536, help="hidden width of an expert")
    add("--tokens", type=int, nargs="+", default=[4096, 13568], help=f"multiples of {PAIRS} pairs")
    add("--experts", type=int, nargs="+", default=[8, 32, 64])
    add("--k", type=int, nargs="+", default=[1, 2])
    add("--dtype", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    add("--backends", nargs="*", choices=BACKENDS, default=list(BACKENDS))
    add("--no-limit", action="store_true", help="also without a limit on slots")
    add("--pairs-per-group", type=int, default=None, help="pairs that share slots; default: all, as the peers do")
    add("--routing", choices=("balanced", "random"), default="balanced")
    add("--aux", action="store_true", help="with the losses of aux_loss=limoe")
    add("--peers", nargs="*", choices=list(PEERS), default=list(PEERS))
    add("--rounds", type=int, default=7, help="pairs per ratio")
    add("--quiet", type=float, default=1.0, help="repeat pairs in which other processes took more of the machine")
    add("--threads", type=int, default=None)
    add("--out", type=Path, default=Path("logs/benchmarks"))
    add("--quick", action="store_true", help="E=8, T=4,096, K=1, float32, 3 rounds")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.tokens, chosen.experts, chosen.k, chosen.dtype, chosen.rounds = [4096], [8], [1], ["float32"], 3
    for tokens in chosen.tokens:
        if tokens % PAIRS or tokens <= PAIRS * TEXT_TOKENS:
            parser.error(f"--tokens must be a multiple of {PAIRS} above {PAIRS * TEXT_TOKENS}, got {tokens}")
    return chosen


def cases(chosen: argparse.Namespace) -> list[Case]:
    grid = itertools.product(chosen.dtype, chosen.tokens, chosen.k, chosen.experts)
    return [
        Case(tokens, experts, k, dtype, chosen.width, chosen.hidden, chosen.device, chosen.routing == "balanced")
        for dtype, tokens, k, experts in grid
    ]


def contenders(case: Case, chosen: argparse.Namespace) -> Iterator[tuple[str, Contender | str]]:
    """Name and layer, or the reason why there is none."""
    for factor in (CAPACITY_FACTOR, None) if chosen.no_limit else (CAPACITY_FACTOR,):
        for backend in chosen.backends:
            name = f"limoe {backend}" + ("" if factor else ", no limit")
            yield (
                name,
                Sparse(case, backend=backend, factor=factor, pairs_per_group=chosen.pairs_per_group, aux=chosen.aux),
            )
    for name in chosen.peers:
        try:
            yield name, build_peer(name, case)
        except Unavailable as reason:
            yield name, str(reason)


def measure_case(case: Case, chosen: argparse.Namespace, tick: Any) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """One row per layer, the dense one first; and what could not be measured, with the reason."""
    dense, layers, missing = Dense(case), {}, {}
    for name, layer in contenders(case, chosen):
        if isinstance(layer, str):
            missing[name] = layer
        else:
            layers[name] = layer
    pairs: dict[str, list[Pair]] = {name: [] for name in layers}
    for round_ in range(chosen.rounds + 1):
        for name, layer in layers.items():
            steps = partial(timed_step, dense), partial(timed_step, layer)
            pair = timed_pair(*steps, quiet=chosen.quiet if round_ > 0 else 1.0)
            if round_ > 0:  # the first one warms up
                pairs[name].append(pair)
            tick()
    rows = [_row(case, "dense", dense, [(a, a, n) for p in pairs.values() for a, _, n in p])]
    return rows + [_row(case, name, layer, pairs[name]) for name, layer in layers.items()], missing


def _row(case: Case, name: str, layer: Contender, pairs: list[Pair]) -> dict[str, Any]:
    ratios = [b.wall / a.wall for a, b, _ in pairs]
    row = {
        "dtype": case.dtype,
        "tokens": case.num_tokens,
        "k": case.k,
        "experts": case.num_experts,
        "layer": name,
        "ratio_min": min(ratios),
        "ratio": median(ratios),
        "ratio_max": max(ratios),
        "cpu_ratio": median(b.cpu / a.cpu for a, b, _ in pairs),
        "milliseconds": 1000 * median(b.wall for _, b, _ in pairs),
        "neighbours": max(share for _, _, share in pairs),
        "waits_for_device": waits_for_device(layer),
        "kept": layer.kept,
        "peak_mib": peak_bytes(layer) / 2**20,
    }
    row["ratio_at_equal_kept"] = None if row["kept"] is None else row["ratio"] / row["kept"]
    layer.zero_grad(set_to_none=True)
    return row


def run(chosen: argparse.Namespace, console: Console) -> dict[str, Any]:
    """All cases, with what a reader must know beside them."""
    machine = describe(chosen.device, program="benchmarks.moe_layer")
    result = {"machine": machine, "rounds": chosen.rounds, "routing": chosen.routing, "rows": []}
    result |= {"width": chosen.width, "hidden": chosen.hidden, "pairs_per_group": chosen.pairs_per_group}
    result |= {"aux": chosen.aux, "missing": {}}
    todo = cases(chosen)
    layers = len(chosen.backends) * (1 + chosen.no_limit) + len(chosen.peers)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=len(todo) * layers * (chosen.rounds + 1))
        for number, case in enumerate(todo, start=1):
            title = f"{case.dtype} T={case.num_tokens:,} K={case.k} E={case.num_experts}"
            progress.update(task, description=title)
            rows, missing = measure_case(case, chosen, lambda: progress.advance(task))
            result["rows"] += rows
            result["missing"] |= {f"{name} ({title})": reason for name, reason in missing.items()}
            progress.update(task, completed=number * layers * (chosen.rounds + 1))
            gc.collect()
    result["machine"]["load_after"] = load_average()
    return result


def main() -> None:
    chosen = arguments()
    console = begin(threads=chosen.threads)
    result = run(chosen, console)
    table = rich_table(result)
    publish(result, name="moe_layer", out=chosen.out, text=markdown(result), tables=[table], console=console)


if __name__ == "__main__":
    main()
