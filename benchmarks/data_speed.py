"""Pairs per second of a loader, and how long a training step waits for it."""

import itertools
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from hydra import compose, initialize_config_dir

from limoe.build import build_module
from limoe.config.places import register_resolvers

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


class Reading(NamedTuple):
    """`cpu` are seconds of this process alone: all of the work where there are no workers."""

    pairs: int
    seconds: float
    cpu: float


def timed_reading(batches: Iterable, *, count: int) -> Reading:
    """Of `count` batches after the first one, which starts workers and fills buffers."""
    iterator = iter(batches)
    next(iterator)
    start, cpu = time.perf_counter(), time.process_time()
    pairs = sum(len(batch.images) for batch in itertools.islice(iterator, count))
    reading = Reading(pairs, time.perf_counter() - start, time.process_time() - cpu)
    del iterator  # ends the workers, outside of the measurement
    return reading


def emoji_step(*, image_size: int, vocab_size: int) -> Callable[[Any], None]:
    """One optimizer step of `model=limoe_emoji`, as a function of the batch."""
    register_resolvers()
    overrides = ["model=limoe_emoji", f"model.image_size={image_size}", f"tokenizer.vocab_size={vocab_size}"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", overrides=[*overrides, "tokenizer.length=16", "paths.output_dir=unused"])
    module = build_module(cfg)
    optimizer = module.configure_optimizers()["optimizer"]

    def step(batch: Any) -> None:
        output = module.model(batch.images, batch.text_ids, batch.text_mask)
        loss = module.contrastive(output.image_features, output.text_features, output.logit_scale)
        loss = loss + module.aux_losses(output.routing).total
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def waiting(batches: Iterable, step: Callable[[Any], None], *, steps: int) -> dict[str, float]:
    """Milliseconds of a step and of the wait for its batch (medians), and the share of the time that was waiting.

    The first two steps warm up and do not count.
    """
    iterator = iter(batches)
    waits, totals = [], []
    for _ in range(steps + 2):
        start = time.perf_counter()
        batch = next(iterator)
        arrived = time.perf_counter()
        step(batch)
        waits.append(arrived - start)
        totals.append(time.perf_counter() - start)
    del iterator
    waits, totals = waits[2:], totals[2:]
    return {
        "wait_ms": 1000 * median(waits),
        "step_ms": 1000 * median(totals),
        "share": sum(waits) / sum(totals),
    }
