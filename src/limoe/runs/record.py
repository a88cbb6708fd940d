"""run.json: command, config hash, status and results of a run, replaced in one step."""

import platform
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

from lightning.pytorch.utilities.rank_zero import rank_zero_only

import limoe
from limoe.config.trees import strict_json
from limoe.errors import ConfigError, one_line
from limoe.files import write_json
from limoe.runs.layout import RECORD, TOP_LEVEL

_PACKAGES = ("torch", "lightning", "hydra-core", "timm", "tokenizers", "torchmetrics", "numpy")


class RunRecord:
    """Context manager around a run; `metrics`, `chance`, `stop_reason` and `bad_samples` (counts by kind of the samples
    left out and of those replaced) may be set at any time inside.

    `status` is `running` inside, then `done`, `failed` (with `error` in one line), or `stopped` (Ctrl-C, SIGTERM, or
    with `stop_reason`, which is then the `error`: a callback ended the run before its last step).
    `seconds` are by the clock from the construction on. `cpu_seconds` are user and system time of the process and its
    finished children: of the first record of a process from the process's start on, of a later one (a multirun) from
    the end of the record before.
    Only rank 0 writes. A SIGTERM before Lightning handles it, or after, ends the process with exit code 143.

    Args:
        folder: the run folder; created if it is missing.
        config_hash: see `limoe.config.objects.config_hash`.
        seed: the run's seed.
        overrides: overrides of the command line.

    Raises:
        ConfigError: on entering, where the folder already holds a run, or cannot be written.
    """

    _cpu_before: ClassVar[float] = 0.0  # CPU seconds of this process at the end of its last record

    def __init__(self, folder: Path, *, config_hash: str, seed: int, overrides: Sequence[str]) -> None:
        self.folder = Path(folder)
        self.metrics: dict[str, float] = {}
        self.chance: dict[str, float] = {}
        self.bad_samples: dict[str, dict[str, int]] = {}
        self.stop_reason: str | None = None
        self._fixed = {
            "command": shlex.join(["limoe", *sys.argv[1:]]),
            "overrides": list(overrides),
            "config_hash": config_hash,
            "git_commit": git_commit(Path(limoe.__file__)),
            "versions": versions(),
            "seed": seed,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self._clock = time.monotonic()
        self._sigterm: Any = None

    def __enter__(self) -> "RunRecord":
        if is_writer():
            self._claim()
        self.write("running")
        with suppress(ValueError):  # handlers can be set in the main thread only
            self._sigterm = signal.signal(signal.SIGTERM, self._terminate)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._sigterm is not None:
            signal.signal(signal.SIGTERM, self._sigterm)
        if error is None:
            self.write("stopped" if self.stop_reason else "done", error=self.stop_reason)
        elif isinstance(error, Exception):
            self.write("failed", error=one_line(f"{type(error).__name__}: {error}"))
        else:  # KeyboardInterrupt, or the SystemExit that Lightning makes of it and of SIGTERM
            self.write("stopped", error=type(error.__context__ or error).__name__)
        RunRecord._cpu_before = cpu_seconds()

    def write(self, status: str, *, error: str | None = None) -> None:
        """Replace run.json in one step."""
        if not is_writer():
            return
        content = {
            "status": status,
            **self._fixed,
            "seconds": round(time.monotonic() - self._clock, 1),
            "cpu_seconds": round(cpu_seconds() - self._cpu_before, 1),
            "metrics": strict_json(self.metrics),
            "chance": strict_json(self.chance),
            "bad_samples": self.bad_samples,
            "error": error,
        }
        write_json(self.folder / RECORD, content)

    def _claim(self) -> None:
        """Create run.json, or raise `ConfigError` if the folder already holds a run."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            taken = [name for name in TOP_LEVEL if (self.folder / name).exists()]
            if not taken:
                (self.folder / RECORD).touch(exist_ok=False)
        except FileExistsError as error:
            taken = [RECORD] if self.folder.is_dir() else []
            if not taken:
                raise ConfigError(f"hydra.run.dir={self.folder} cannot be a folder: {error}") from error
        except OSError as error:
            raise ConfigError(f"hydra.run.dir={self.folder} cannot be written: {error}") from error
        if taken:
            raise ConfigError(
                f"output folder {self.folder} already holds a run ({taken[0]}); nothing was changed; "
                "choose another hydra.run.dir"
            )

    def _terminate(self, *_: Any) -> None:
        """Exit on SIGTERM, unless Lightning has set its handler, which calls this one too and stops after a batch."""
        if signal.getsignal(signal.SIGTERM) == self._terminate:
            raise SystemExit(128 + signal.SIGTERM)


def is_writer() -> bool:
    """True on rank 0, which Lightning reads from the environment before there is a process group."""
    return rank_zero_only.rank == 0  # type: ignore[attr-defined]


def cpu_seconds() -> float:
    """User and system time of this process since its start, and of its finished children, in seconds."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def versions() -> dict[str, str]:
    """Versions of Python, limoe and the packages that affect results."""
    return {"python": platform.python_version(), "limoe": limoe.__version__} | {
        name: version(name) for name in _PACKAGES
    }


def git_commit(file: Path) -> str | None:
    """Commit of the checkout that tracks `file`, with `-dirty` if tracked files differ; None outside a checkout."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(file.parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
