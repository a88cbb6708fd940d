"""Two processes with a gloo group between them."""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

SECONDS = 200  # only a hang takes that long, also beside other work


def run_two(work: Callable[[int], Any], folder: Path) -> Any:
    """`work(rank)` on both ranks; what rank 0 returns, by way of a file that holds tensors and plain containers."""
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=_rank, args=(work, number, str(folder)), daemon=True) for number in range(2)]
    for process in ranks:
        process.start()
    end = time.monotonic() + SECONDS
    try:
        for process in ranks:
            process.join(max(0.0, end - time.monotonic()))
        codes = [process.exitcode for process in ranks]
    finally:
        for process in ranks:
            if process.is_alive():
                process.kill()
                process.join()
    assert codes == [0, 0], f"exit codes of the two ranks: {codes} (None: killed after {SECONDS} s)"
    return torch.load(folder / "found.pt", weights_only=True)


def _rank(work: Callable[[int], Any], number: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=number, world_size=2)
    found = work(number)
    if number == 0:
        torch.save(found, f"{folder}/found.pt")
    dist.destroy_process_group()
    # Not by way of the interpreter's end, where a thread of gloo that drops its last tensor aborts the process: the
    # group lives on in default arguments of torch.distributed.nn.functional, which checkpointing imports.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def mean_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """What DDP does with gradients."""
    value = value.detach().clone()
    dist.all_reduce(value)
    return value / dist.get_world_size()
