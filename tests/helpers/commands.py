"""Programs as a user starts them, `limoe ...` above all, in processes of their own that start at once.

The processes are forks of one that has imported everything and run nothing (the fork server of `multiprocessing`), so
that no program waits for its imports. `tests/cli/test_main.py` also starts a real `python -m limoe`.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from limoe.cli.main import main

SECONDS = 200  # far beyond what any program of the tests needs, also beside other work
PRELOAD = [
    "limoe.cli.main",
    "limoe.build",
    "limoe.cli.commands.eval",
    "limoe.cli.commands.train",
    "limoe.cli.commands.report",
]
TINY = ["model.width=32", "data.batch_size=16", "data.size=64"]  # together with experiment=scenes
FEW_IMAGES = [f"eval.synthetic_{task}.images.size=40" for task in ("heldout", "val")]


class Done(NamedTuple):
    """What a program printed before it ended."""

    stdout: str
    stderr: str


def limoe(*words: str, cwd: Path, code: int = 0) -> Done:
    """Run `limoe WORDS` in the folder `cwd`; its exit code must be `code`."""
    return program("limoe", *words, cwd=cwd, code=code)


def program(module: str, *words: str, cwd: Path, code: int = 0) -> Done:
    """Run `python -m MODULE WORDS` in the folder `cwd`; its exit code must be `code`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with tempfile.TemporaryDirectory() as folder:
        process = context.Process(target=_run, args=(module, words, cwd, Path(folder)))
        process.start()
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
        done = Done(*((Path(folder) / stream).read_text() for stream in Done._fields))
    assert process.exitcode == code, f"exit code {process.exitcode}\n{done.stdout}\n{done.stderr}"
    return done


def _run(module: str, words: Sequence[str], cwd: Path, folder: Path) -> None:
    """In the new process: both streams go to files, and everything else is as in a fresh interpreter."""
    for stream in (sys.stdout, sys.stderr):
        with (folder / stream.name.strip("<>")).open("wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    multiprocessing.set_start_method("fork", force=True)  # loader processes start as they do in any program on Linux
    torch.set_num_threads(1)
    for name in [name for name in os.environ if name.startswith("LIMOE_")]:
        del os.environ[name]  # no environment variable of the caller may choose the folders
    os.chdir(cwd)
    sys.path.insert(0, str(cwd))
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def run_without_type_checks(script: str) -> subprocess.CompletedProcess:
    """In a fresh interpreter, since checked annotations break up the graph."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=200, check=False
    )


def limoe_in_this_process(*words: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["limoe", *words])
    try:
        main()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 0
    return 0
