"""Write the report of one finished run, or of several side by side.

limoe report logs/emoji/runs/<run id>          writes report.html into the run folder
limoe report RUN out=page.html                 writes the page elsewhere
limoe report RUN RUN ... [out=FOLDER]          one report: runs of one config are a variant, seeds its repetitions
limoe report 'logs/emoji/runs/*' FOLDER        patterns, and folders that hold runs: a multirun, the trials of a study
limoe report RUNS metrics=[val/loss]           metrics to compare; the first variant is the baseline
"""

import sys
from pathlib import Path

from omegaconf import DictConfig

from limoe.errors import require
from limoe.reporting.report import build
from limoe.studies.joint import joint_study
from limoe.studies.report import write_report
from limoe.studies.results import RUNS, write_csv
from limoe.studies.run_set import digest, find_runs, last_run

POSITIONAL = ["runs"]


def run(cfg: DictConfig) -> None:
    """Write the page and print its path."""
    places = [str(place) for place in cfg.runs]
    require(len(places) > 0, "runs", "at least one run folder", cfg.runs)
    folders, empty = find_runs(places)
    if empty:
        shown = ", ".join(empty[:3]) + (" ..." if len(empty) > 3 else "")
        print(f"left out, since they hold no run: {shown}", file=sys.stderr)
    if len(folders) == 1:
        page = build(last_run(folders[0]), out=None if cfg.out is None else Path(cfg.out))
        print(f"report: {page}")
        return
    root = Path(cfg.paths.log_dir).resolve() / "reports"
    out = root / digest(folders) if cfg.out is None else Path(cfg.out)
    is_own = not out.is_file() and out.suffix != ".html" and out.resolve() not in {path.resolve() for path in folders}
    require(is_own, "out", f"a folder of its own for the report of {len(folders)} runs", str(out))
    study, plan, rows = joint_study(folders, metrics=cfg.metrics)
    write_csv(rows, out / RUNS)
    write_report(study, plan, rows, out=out)
