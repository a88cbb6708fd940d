"""`limoe ...` as a user types it, in a process of its own that starts at once.

The processes are forks of one that has imported everything and run nothing (the fork server of `multiprocessing`), so
that no command waits for its imports. `tests/test_cli.py` also starts a real `python -m limoe`.
"""

import itertools
import multiprocessing
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

SECONDS = 200  # far beyond what any command of the tests needs, also beside other work
PRELOAD = ["limoe.cli", "limoe.build", "limoe.verbs.eval", "limoe.verbs.train", "limoe.verbs.report"]
_numbers = itertools.count()


class Done(NamedTuple):
    """What a command printed before it ended."""

    stdout: str
    stderr: str


def limoe(*words: str, cwd: Path, code: int = 0) -> Done:
    """Run `limoe WORDS` in the folder `cwd`; its exit code must be `code`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    out, err = (cwd.parent / f"{cwd.name}-{next(_numbers)}.{name}" for name in ("stdout", "stderr"))
    process = context.Process(target=_run, args=(words, cwd, out, err))
    process.start()
    process.join(SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
    done = Done(out.read_text(), err.read_text())
    assert process.exitcode == code, f"exit code {process.exitcode}\n{done.stdout}\n{done.stderr}"
    return done


def _run(words: Sequence[str], cwd: Path, out: Path, err: Path) -> None:
    """In the new process: both streams go to files, and everything else is as in a fresh `limoe`."""
    for path, stream in ((out, sys.stdout), (err, sys.stderr)):
        with path.open("wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    multiprocessing.set_start_method("fork", force=True)  # loader processes start as they do in any program on Linux
    torch.set_num_threads(1)
    for name in [name for name in os.environ if name.startswith("LIMOE_")]:
        del os.environ[name]  # no environment variable of the caller may choose the folders
    os.chdir(cwd)
    sys.argv = ["limoe", *words]

    from limoe.cli import main

    main()
