"""Search a space of config values for the best one (needs optuna: the extra tune).

limoe search experiments/search_recipe                  trains the points that are missing, then reports
limoe search experiments/search_recipe dry_run=true     the space, and the cost
limoe search FOLDER trials=40 n_jobs=2                  more points, two in parallel
limoe search new experiments/my_search                  a search to fill in
"""

import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from omegaconf import DictConfig

from limoe.config.places import experiment_dir
from limoe.errors import require
from limoe.reporting.findings import duration
from limoe.search.points import FrozenTrial, TrialState, Worker, opened, tries
from limoe.search.report import conclude, print_point
from limoe.search.space import FILE, Search, check_space, read_search, search_key
from limoe.studies.cost import costs_of
from limoe.studies.plan import Plan
from limoe.studies.skeleton import write_skeleton

POSITIONAL = ["search"]
GOES_ON = True


def run(cfg: DictConfig) -> None:
    """Run the search; the exit code is 1 if no point has a value."""
    words = [str(word) for word in cfg.search]
    if words and words[0] == "new":
        require(len(words) == 2, "search", "new FOLDER", " ".join(words))
        write_skeleton(Path(words[1]), command="search")
        return
    require(len(words) == 1, "search", "one folder with a search.yaml, or new FOLDER", " ".join(words))
    require(type(cfg.n_jobs) is int and cfg.n_jobs > 0, "n_jobs", "a whole number > 0", cfg.n_jobs)
    folder, home = experiment_dir(Path(words[0]), file=FILE)
    search = chosen(read_search(folder), cfg)
    root = Path(cfg.paths.log_dir).resolve() / "searches" / search.study.name
    base = check_space(search, root=root)
    with opened(search, root=root, key=search_key(search, base)) as study:
        if cfg.dry_run:
            print("\n".join(dry_run(search, base, tries(study))))
            return
        Worker(search, study, root=root, on_end=functools.partial(print_point, search)).run(n_jobs=cfg.n_jobs)
        best = conclude(search, tries(study), out=home / "results" if cfg.out is None else Path(cfg.out))
    if best is None:
        sys.exit(1)


def chosen(search: Search, cfg: DictConfig) -> Search:
    """The search with the command's number of points and overrides."""
    trials = search.trials if cfg.trials is None else cfg.trials
    require(type(trials) is int and trials > 0, "trials", "a whole number > 0", trials)
    study = dataclasses.replace(search.study, base=(*search.study.base, *cfg.overrides))
    return dataclasses.replace(search, trials=trials, study=study)


def dry_run(search: Search, base: Plan, points: Sequence[FrozenTrial]) -> list[str]:
    """Lines with the space, the cost of one training (size of the base, median time of the points), and of all."""
    (cost,) = costs_of(base, [])
    seeds = len(search.study.seeds)
    took = [point.user_attrs["seconds"] / seeds for point in points if point.state == TrialState.COMPLETE]
    each = median(took) if took else None
    total = search.trials * seeds
    left = max(0, search.trials - sum(point.state.is_finished() for point in points))
    lines = [
        search.study.question,
        *(f"  {key}: {values}" for key, values in search.space.items()),
        f"base: limoe train {' '.join(search.study.base)}",
        f"one training of the base: {cost.max_steps:,} steps, {cost.parameters / 1e6:.2f} M parameters, "
        f"{cost.flops / 1e15:.3g} PFLOP, {duration(each) or 'time unknown until one has finished'}",
        f"{search.trials} points, {total} trainings, {cost.flops * total / 1e15:.3g} PFLOP; {left} points are left",
    ]
    if each is not None:
        lines.append(f"{duration(each * left * seeds)} of training left, one at a time")
    return lines
