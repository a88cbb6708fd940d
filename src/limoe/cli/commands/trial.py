"""Run one trial of a plan (started by `limoe study` and `limoe compare`).

limoe trial -m plan=FILE index=0,1,2 hydra/launcher=joblib
"""

from pathlib import Path

from omegaconf import DictConfig

from limoe.studies.plan import load_trial
from limoe.studies.trial import run_trial


def run(cfg: DictConfig) -> None:
    """Train in a process of its own and record the outcome; a failure does not stop the other trials."""
    trial, settings = load_trial(Path(cfg.plan), cfg.index)
    state = run_trial(trial, **settings)
    print(f"{trial.variant} seed {trial.seed}: {state.status}{f': {state.error}' if state.error else ''}")
