"""Compare a sparse run with its dense one-tower and two-tower baselines over seeds, and write the report.

limoe compare experiment=emoji_limoe data.root=DIR seeds=[0,1,2]
limoe compare experiment=emoji_limoe dry_run=true
limoe compare experiment=emoji_limoe 'tuned={dense:["optimizer.lr=1e-2"]}'      values of its own for a variant
limoe compare experiment=emoji_limoe out=FOLDER report_only=true      the report again, on the rows in FOLDER
limoe compare experiment=emoji_limoe hydra/launcher=joblib hydra.launcher.n_jobs=2
"""

import hashlib
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from limoe.config.overrides import override_key
from limoe.errors import require
from limoe.studies.baselines import comparison
from limoe.studies.plan import Plan, plan_study
from limoe.studies.report import carry_out

GOES_ON = True
_OWN = ("seeds", "variants", "tuned", "metrics", "dry_run", "report_only", "out")


def run(cfg: DictConfig) -> None:
    """Run the trials without a result, then report; the exit code is 1 if a trial has no result.

    Raises:
        ConfigError: the run is no sparse one-tower with K = 1, or its config is refused; nothing was run.
    """
    words = [word for word in HydraConfig.get().overrides.task if override_key(word) not in _OWN]
    name = HydraConfig.get().runtime.choices.get("experiment") or "compare"
    metrics = [] if cfg.metrics is None else list(cfg.metrics)
    tuned: Any = OmegaConf.to_container(cfg)["tuned"] or {}  # type: ignore[call-overload,index]
    require(isinstance(tuned, dict), "tuned", "a map of variants to lists of overrides", tuned)
    variants = list(cfg.variants)
    study = comparison(words, name=name, seeds=cfg.seeds, variants=variants, metrics=metrics, tuned=tuned)
    root = Path(cfg.paths.log_dir).resolve() / "compare" / name
    plan = plan_study(study, root=root / "trials")
    out = root / f"report_{_digest(plan)}" if cfg.out is None else Path(cfg.out)
    carry_out(study, plan, cfg, root=root, out=out)


def _digest(plan: Plan) -> str:
    """Eight hex digits of the variants' configs: more seeds of the same variants share a folder."""
    configs = {trial.variant: trial.config_hash for trial in reversed(plan.trials)}
    return hashlib.sha256(repr(sorted(configs.items())).encode()).hexdigest()[:8]
