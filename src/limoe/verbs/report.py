"""Write report.html for finished runs.

limoe report logs/emoji/runs/<run id>          writes report.html into the run folder
limoe report RUN RUN ...                       one page each
limoe report RUN out=page.html                 writes the page elsewhere
"""

from pathlib import Path

from omegaconf import DictConfig

from limoe.errors import DataError, require
from limoe.reporting.report import build

POSITIONAL = ["runs"]


def run(cfg: DictConfig) -> None:
    """Build one page per run folder and say where it lies.

    Raises:
        ConfigError: `out` is given for several runs.
        DataError: a folder holds no run.
    """
    runs = [Path(name) for name in cfg.runs]
    require(len(runs) > 0, "runs", "at least one run folder", cfg.runs)
    require(cfg.out is None or len(runs) == 1, "out", "left out for several runs", cfg.out)
    for folder in runs:
        if not (folder / "run.json").is_file():
            raise DataError(f"{folder} is no run folder: it holds no run.json")
    for folder in runs:
        page = build(folder, out=None if cfg.out is None else Path(cfg.out))
        print(f"report: {page}")
