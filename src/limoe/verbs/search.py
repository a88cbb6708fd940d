"""Search a space of config values for the best one (needs optuna: the extra tune).

limoe search experiments/search_recipe                  trains the points that are missing, then reports
limoe search experiments/search_recipe dry_run=true     the space, and the cost
limoe search FOLDER trials=40 n_jobs=2                  more points, two side by side
limoe search new experiments/my_search                  a search to fill in
"""

import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from limoe.config import experiment_dir
from limoe.errors import require
from limoe.reporting.findings import duration
from limoe.search.points import Command, FrozenTrial, opened, tries
from limoe.search.report import conclude, say
from limoe.search.space import FILE, POINT, Search, check_space, read_search, search_key
from limoe.studies.cost import costs_of
from limoe.studies.plan import Plan
from limoe.studies.results import collect
from limoe.studies.skeleton import write_new
from limoe.studies.trial import Trial, read_state

POSITIONAL = ["search"]
GOES_ON = True
_SKELETON = """\
question: Which learning rate and auxiliary weight train best?
# what all points share: overrides of `limoe train`
base: [experiment=demo, trainer.max_steps=300, trainer.max_time=null, trainer.val_check_interval=100]
space: # config key: {low, high}, perhaps with log: true or step; or {choices: [...]}
  optimizer.lr: {low: 1e-4, high: 1e-2, log: true}
  aux_total.weight: {low: 0.0, high: 0.1, step: 0.02}
  routing.capacity_factor: {choices: [1.0, 1.25, 2.0]}
metric: {key: val/loss, name: validation loss, higher: false} # a logged key; whether more is better
trials: 20 # points
seeds: [0] # each point is trained with each of them, its value is the mean
trial_timeout: null # seconds per training
sampler: {name: tpe, seed: 0} # or random
pruning: false # true: give up points whose first seed is below the median of those before
"""
_README = """\
# {name}

    limoe search {folder} dry_run=true
    limoe search {folder}

What it asks, its parameters and points are in `search.yaml`; points, best values and report in `results/`.
"""


def run(cfg: DictConfig) -> None:
    """Run the search; the exit code is 1 if no point has a value.

    Raises:
        ConfigError: a key of the space is unknown, or a value of it is refused; nothing was run.
        DataError: the folder holds no search, or a broken one.
    """
    words = [str(word) for word in cfg.search]
    if words and words[0] == "new":
        require(len(words) == 2, "search", "new FOLDER", " ".join(words))
        readme = _README.format(name=Path(words[1]).name, folder=words[1])
        for path in write_new(Path(words[1]), {"search.yaml": _SKELETON, "README.md": readme}):
            print(f"written: {path}")
        return
    require(len(words) == 1, "search", "one folder with a search.yaml, or new FOLDER", " ".join(words))
    require(is_count(cfg.n_jobs), "n_jobs", "a whole number > 0", cfg.n_jobs)
    folder, home = experiment_dir(Path(words[0]), file=FILE)
    search = chosen(read_search(folder), cfg)
    root = Path(cfg.paths.log_dir).resolve() / "searches" / search.study.name
    base = check_space(search, root=root)
    with opened(search, root=root, key=search_key(search, base)) as study:
        if cfg.dry_run:
            print("\n".join(dry_run(search, base, tries(study), root=root)))
            return
        Command(search, study, root=root, say=functools.partial(say, search)).run(n_jobs=cfg.n_jobs)
        best = conclude(search, tries(study), out=home / "results" if cfg.out is None else Path(cfg.out))
    if best is None:
        sys.exit(1)


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def chosen(search: Search, cfg: DictConfig) -> Search:
    """The search with the number of points, and the overrides of every training, asked for."""
    trials = search.trials if cfg.trials is None else cfg.trials
    require(is_count(trials), "trials", "a whole number > 0", trials)
    study = dataclasses.replace(search.study, base=(*search.study.base, *cfg.overrides))
    return dataclasses.replace(search, trials=trials, study=study)


def dry_run(search: Search, base: Plan, points: Sequence[FrozenTrial], *, root: Path) -> list[str]:
    """The space, the cost of one training of the base at the pace of the points, and of all trainings that are left."""
    trainings = []
    for point in points:
        for seed in search.study.seeds:
            if digest := point.user_attrs.get(f"hash_seed_{seed}"):
                trainings.append(Trial(POINT, seed, (), digest, root / POINT / f"seed_{seed}_{digest}"))
    plan = dataclasses.replace(base, trials=tuple(trainings))
    (cost,) = costs_of(plan, collect(plan, [read_state(training) for training in trainings]))
    each = None if cost.seconds_per_step is None else cost.seconds_per_step * cost.max_steps
    work = cost.flops_per_pair * cost.pairs_per_step * cost.max_steps / 1e15
    total = search.trials * len(search.study.seeds)
    left = max(0, search.trials - sum(point.state.is_finished() for point in points))
    return [
        search.study.question,
        *(f"  {key}: {values}" for key, values in search.space.items()),
        f"base: limoe train {' '.join(search.study.base)}",
        f"one training of the base: {cost.max_steps:,} steps, {cost.parameters / 1e6:.2f} M parameters, "
        f"{work:.3g} PFLOP, {duration(each) or 'time unknown until one has finished'}",
        f"{search.trials} points, {total} trainings, {work * total:.3g} PFLOP; {left} points are left",
        *(
            []
            if each is None
            else [f"{duration(each * left * len(search.study.seeds))} of training left, one at a time"]
        ),
    ]
