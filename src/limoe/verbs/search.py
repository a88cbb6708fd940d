"""Search a space of config values for the best one (needs optuna: the extra tune).

limoe search experiments/search_recipe                  trains the points that are missing, then reports
limoe search experiments/search_recipe dry_run=true     the space, and the cost
limoe search FOLDER trials=40 n_jobs=2                  more points, two side by side
limoe search new experiments/my_search                  a search to fill in
"""

import contextlib
import dataclasses
import sys
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from limoe.config import experiment_dir
from limoe.errors import require
from limoe.search.dry_run import print_dry_run
from limoe.search.plan import check_space, search_key
from limoe.search.report import conclude
from limoe.search.run import run_points
from limoe.search.skeleton import write_skeleton
from limoe.search.spec import FILE, Search, is_count, read_search
from limoe.search.store import Store

POSITIONAL = ["search"]
GOES_ON = True


def run(cfg: DictConfig) -> None:
    """Run the search; the exit code is 1 if no point has a value.

    Raises:
        ConfigError: a key of the space is unknown, or a value of it is refused; nothing was run.
        DataError: the folder holds no search, or a broken one.
    """
    words = [str(word) for word in cfg.search]
    if words and words[0] == "new":
        require(len(words) == 2, "search", "new FOLDER", " ".join(words))
        for path in write_skeleton(Path(words[1])):
            print(f"written: {path}")
        return
    require(len(words) == 1, "search", "one folder with a search.yaml, or new FOLDER", " ".join(words))
    require(is_count(cfg.n_jobs), "n_jobs", "a whole number > 0", cfg.n_jobs)
    (folder, home), console = experiment_dir(Path(words[0]), file=FILE), Console()
    search = chosen(read_search(folder), cfg)
    root = Path(cfg.paths.log_dir).resolve() / "searches" / search.name
    base = check_space(search, root=root)
    with contextlib.closing(Store(root, key=search_key(search, base), search=search)) as store:
        if cfg.dry_run:
            print_dry_run(search, base, store.points(), root=root, console=console)
            return
        if again := store.retry():
            console.print(f"{again} failed {'point is' if again == 1 else 'points are'} tried again")
        run_points(search, store, root=root, n_jobs=cfg.n_jobs, console=console)
        out = home / "results" if cfg.out is None else Path(cfg.out)
        best = conclude(search, base, store, root=root, out=out, console=console)
    if best is None:
        sys.exit(1)


def chosen(search: Search, cfg: DictConfig) -> Search:
    """The search with the number of points, and the overrides of every training, asked for."""
    trials = search.trials if cfg.trials is None else cfg.trials
    require(is_count(trials), "trials", "a whole number > 0", trials)
    study = dataclasses.replace(search.study, base=(*search.study.base, *cfg.overrides))
    return dataclasses.replace(search, trials=trials, study=study)
