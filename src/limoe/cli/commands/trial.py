"""Run one trial of a plan: what `limoe study` and `limoe compare` start, through any Hydra launcher.

limoe trial -m plan=FILE index=0,1,2 hydra/launcher=joblib
"""

from pathlib import Path

from omegaconf import DictConfig

from limoe.studies.plan import load_trial
from limoe.studies.trial import run_trial


def run(cfg: DictConfig) -> None:
    """The training is a process of its own; whatever becomes of it is written down, and the other trials go on.

    Raises:
        DataError: the plan holds no such trial.
    """
    trial, settings = load_trial(Path(cfg.plan), cfg.index)
    state = run_trial(trial, **settings)
    print(f"{trial.variant} seed {trial.seed}: {state.status}{f': {state.error}' if state.error else ''}")
