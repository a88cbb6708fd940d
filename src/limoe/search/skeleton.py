"""A new search to fill in."""

from pathlib import Path

from limoe.studies.skeleton import write_new

_SEARCH = """\
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


def write_skeleton(folder: Path) -> list[Path]:
    """search.yaml and README.md of a new search.

    Raises:
        ConfigError: the folder exists already.
    """
    return write_new(folder, {"search.yaml": _SEARCH, "README.md": _README.format(name=folder.name, folder=folder)})
