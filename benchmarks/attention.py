"""Attention of short sequences, forward and backward: PyTorch's fused product (1.00) and ours (`limoe.models.layers`).

    python -m benchmarks.attention --quick
    python -m benchmarks.attention --threads 2 --quiet 0.05

On a GPU both are the same. Half of the rows have a mask, as texts have. Figures go to `<out>/attention.json` and `.md`.
"""

from benchmarks.allocator import restart_with_steady_allocator

if __name__ == "__main__":
    restart_with_steady_allocator("benchmarks.attention")

import argparse
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from benchmarks.machine import describe, load_average
from benchmarks.measure import Seconds, timed, timed_pair
from benchmarks.output import begin, publish
from limoe.models.layers import attend

Attention = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
# sequences, tokens, heads, width of a head: emoji, demo, S/32, one of 64 tokens, B/16 (longer than what is plain)
SHAPES = ((256, 16, 6, 32), (128, 16, 4, 32), (64, 49, 8, 64), (32, 64, 6, 64), (8, 196, 12, 64))
COLUMNS = ("type", "sequences", "tokens", "heads", "head", "mask", "ratio", "min-max", "fused ms", "others")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--rounds", type=int, default=20, help="pairs per ratio")
    add("--quiet", type=float, default=1.0, help="repeat pairs in which other processes took more of the machine")
    add("--threads", type=int, default=None)
    add("--out", type=Path, default=Path("logs/benchmarks"))
    add("--quick", action="store_true", help="two shapes, 3 rounds")
    chosen = parser.parse_args()
    chosen.shapes = SHAPES[:2] if chosen.quick else SHAPES
    if chosen.quick:
        chosen.rounds = 3
    return chosen


def fused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def case(shape: tuple[int, ...], dtype: torch.dtype, *, masked: bool) -> Callable[[Attention], None]:
    """Forward and backward to queries, keys and values that lie in memory as the model's do."""
    sequences, tokens, heads, size = shape
    qkv = torch.randn(sequences, tokens, 3, heads, size, dtype=dtype, requires_grad=True)
    grad = torch.randn(sequences, heads, tokens, size, dtype=dtype)
    mask = (torch.arange(tokens) < torch.randint(1, tokens + 1, (sequences, 1)))[:, None, None] if masked else None

    def step(attention: Attention) -> None:
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        attention(query, key, value, mask).backward(grad)
        qkv.grad = None

    return step


def measured(step: Callable[[Attention], None], chosen: argparse.Namespace) -> dict[str, float]:
    """The first pair warms up."""
    work: list[Callable[[], Seconds]] = [partial(timed, partial(step, f), device="cpu") for f in (fused, attend)]
    pairs = [timed_pair(*work, quiet=chosen.quiet) for _ in range(chosen.rounds + 1)][1:]
    ratios = [own.wall / base.wall for base, own, _ in pairs]
    found = {"ratio_min": min(ratios), "ratio": median(ratios), "ratio_max": max(ratios)}
    found["milliseconds"] = 1000 * median(base.wall for base, _, _ in pairs)
    return {**found, "neighbours": max(share for *_, share in pairs)}


def run(chosen: argparse.Namespace, console: Console) -> dict[str, Any]:
    result: dict[str, Any] = {"machine": describe("cpu", program="benchmarks.attention"), "rounds": chosen.rounds}
    cases = list(product((torch.float32, torch.bfloat16), chosen.shapes, (False, True)))
    result |= {"rows": [], "missing": {}}
    for dtype, shape, masked in track(cases, description="cases", console=console, transient=True):
        named = dict(zip(("sequences", "tokens", "heads", "head"), shape, strict=True))
        kind = {"dtype": str(dtype).removeprefix("torch."), **named, "masked": masked}
        result["rows"].append({**kind, **measured(case(shape, dtype, masked=masked), chosen)})
    result["machine"]["load_after"] = load_average()
    return result


def cells(row: dict[str, Any]) -> list[str]:
    kind = [str(row[name]) for name in ("dtype", "sequences", "tokens", "heads", "head")]
    span = f"{row['ratio_min']:.2f}-{row['ratio_max']:.2f}"
    figures = [f"{row['ratio']:.2f}", span, f"{row['milliseconds']:.1f}", f"{row['neighbours']:.0%}"]
    return [*kind, "yes" if row["masked"] else "no", *figures]


def markdown(result: dict[str, Any]) -> str:
    machine = result["machine"]
    lines = [f"`{machine['command']}`", ""]
    lines += [
        f"torch {machine['torch']}, {machine['processor']}, {machine['threads']} threads, {result['rounds']} pairs."
    ]
    lines += ["", "| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(cells(row)) + " |" for row in result["rows"]), ""])


def main() -> None:
    chosen = arguments()
    console = begin(threads=chosen.threads)
    result = run(chosen, console)
    table = Table(*COLUMNS, title=f"ours / fused, medians of {chosen.rounds} pairs")
    for row in result["rows"]:
        table.add_row(*cells(row))
    publish(result, name="attention", out=chosen.out, text=markdown(result), tables=[table], console=console)


if __name__ == "__main__":
    main()
