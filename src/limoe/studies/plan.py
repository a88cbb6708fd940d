"""The trials of a study, with all configs composed and checked before the first one."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from limoe.accounting.anatomy import without_values
from limoe.build import assemble, build_callbacks, build_model
from limoe.callbacks.base import check_callbacks
from limoe.config.checks import check
from limoe.config.errors import Known, composed_keys, explained
from limoe.config.objects import config_hash
from limoe.config.trees import leaves
from limoe.errors import ConfigError, DataError
from limoe.files import write_json
from limoe.studies.study import Study
from limoe.studies.trial import Trial


@dataclass(frozen=True)
class Plan:
    """Trials in the order they run, and their common settings. `max_steps` and `configs` are by variant."""

    trials: tuple[Trial, ...]
    metrics: tuple[str, ...]
    timeout: float | None
    max_steps: dict[str, int]
    configs: dict[str, DictConfig]

    def save(self, path: Path) -> None:
        """Write the parts that the process of a trial needs, as JSON."""
        entries = [{**asdict(trial), "folder": str(trial.folder)} for trial in self.trials]
        write_json(path, {"trials": entries, "metrics": list(self.metrics), "timeout": self.timeout})


def plan_study(study: Study, *, root: Path, extra: Sequence[str] = ()) -> Plan:
    """Trials of a study, seed by seed; the trials of a variant differ only in the seed.

    `root` is the folder of the trials, `extra` overrides that come after those of the study.

    Raises:
        ConfigError: a variant's config breaks a rule; the message names the variant.
    """
    configs = {name: _compose(name, (*study.base, *words, *extra)) for name, words in study.variants.items()}
    trials = []
    seeds = dict.fromkeys([*study.seeds, *(seed for own in study.own_seeds.values() for seed in own)])
    for seed in seeds:
        for name, words in study.variants.items():
            if seed not in study.seeds_of(name):
                continue
            cfg = configs[name].copy()
            cfg.seed = seed
            digest = config_hash(cfg)
            overrides = (*study.base, *words, *extra, f"seed={seed}")
            trials.append(Trial(name, seed, overrides, digest, root / name / f"seed_{seed}_{digest}"))
    return Plan(
        trials=tuple(trials),
        metrics=tuple(metric.key for metric in study.metrics[:1]),  # some variants may lack the other metrics
        timeout=study.trial_timeout,
        max_steps={name: int(cfg.trainer.max_steps) for name, cfg in configs.items()},
        configs=configs,
    )


def load_trial(path: Path, index: int) -> tuple[Trial, dict[str, Any]]:
    """One trial of a saved plan, and the arguments of `run_trial`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entry = content["trials"][index]
        trial = Trial(**{**entry, "overrides": tuple(entry["overrides"]), "folder": Path(entry["folder"])})
        return trial, {"metrics": content["metrics"], "timeout": content["timeout"]}
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise DataError(f"plan: {path} holds no trial {index} ({type(error).__name__})") from error


def differences(configs: dict[str, DictConfig], *, baseline: str) -> dict[str, dict[str, tuple[Any, Any]]]:
    """By variant the dotted keys in which its config differs from the baseline's: (baseline's value, its value)."""
    flat = {name: dict(leaves(OmegaConf.to_container(cfg, resolve=False))) for name, cfg in configs.items()}
    base = flat.pop(baseline)
    changed = {}
    for name, own in flat.items():
        keys = [key for key in base | own if base.get(key) != own.get(key)]
        changed[name] = {key: (base.get(key), own.get(key)) for key in keys}
    return changed


def _compose(name: str, overrides: Sequence[str]) -> DictConfig:
    """Compose and check a config, and build all parts that need no data (the model without values)."""
    known = Known(
        keys=lambda: composed_keys("train", overrides),
        options=lambda group: GlobalHydra.instance().config_loader().get_group_options(group),
    )
    try:
        with explained(known=known):
            cfg = compose("train", overrides=list(overrides))
            check(cfg)
            with without_values():
                module = assemble(cfg, build_model(cfg))
                module.configure_optimizers()
            check_callbacks(build_callbacks(cfg), module)
            return cfg
    except ConfigError as error:
        raise ConfigError(f"variant {name}: {error}") from error
