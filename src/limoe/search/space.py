"""Definition of a search: `search.yaml` in its folder, and the check of its space."""

import dataclasses
import hashlib
import json
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection

from limoe.config.errors import explain
from limoe.config.overrides import quoted
from limoe.errors import ConfigError, DataError, one_line
from limoe.studies.plan import Plan, plan_study
from limoe.studies.study import Metric, Study, parse_study, unreadable

FILE = "search.yaml"
POINT = "point"  # a point is a study with this only variant


@dataclass
class Sampler:
    """`startup` points are drawn at random before `tpe` proposes; by default a quarter of the points, 4 to 10."""

    name: str = "tpe"  # or random
    seed: int = 0
    startup: int = -1  # -1: the default


@dataclass
class SearchFile:
    """Keys of a search.yaml."""

    question: str = MISSING
    base: list[Any] = MISSING
    space: Any = MISSING
    metric: dict[str, Any] = MISSING
    trials: int = MISSING
    seeds: list[Any] = field(default_factory=lambda: [0])
    trial_timeout: Any = None
    sampler: Sampler = field(default_factory=Sampler)
    pruning: bool = False


@dataclass(frozen=True)
class Search:
    """A search for the values of `space` with the best metric. `trials`: number of points; `study`: question, base
    overrides, seeds, metric and timeout, as in studies."""

    study: Study
    space: Mapping[str, BaseDistribution]
    trials: int
    sampler: Sampler
    pruning: bool

    @property
    def metric(self) -> Metric:
        return self.study.metrics[0]

    @property
    def direction(self) -> StudyDirection:
        return StudyDirection.MAXIMIZE if self.metric.higher else StudyDirection.MINIMIZE


def read_search(folder: Path) -> Search:
    """Read the search in `folder`. Raises `DataError` if there is no search.yaml, or a key or value is refused."""
    path = folder / FILE

    def require(condition: bool, message: str) -> None:
        if not condition:
            raise DataError(f"{path}: {message}")

    try:
        given = OmegaConf.merge(OmegaConf.structured(SearchFile), OmegaConf.create(path.read_text(encoding="utf-8")))
        content: Any = OmegaConf.to_container(given, resolve=False, throw_on_missing=True)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; make a search with: limoe search new FOLDER") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error
    except OmegaConfBaseException as error:
        raise DataError(f"{path}: {explain(error)}") from error
    space, metric, trials, pruning = (content.pop(key) for key in ("space", "metric", "trials", "pruning"))
    sampler = Sampler(**content.pop("sampler"))
    if sampler.startup == -1:
        sampler.startup = max(4, min(10, trials // 4))
    whole = {"key", "higher"} <= set(metric) <= {"key", "higher", "name"} and isinstance(metric["higher"], bool)
    require(whole, f"metric must be {{key, higher}}, optionally name, got {metric!r:.60}")
    require(trials > 0, f"trials must be > 0, got {trials}")
    require(sampler.name in ("tpe", "random"), f"sampler.name must be tpe or random, got {sampler.name!r:.60}")
    require(sampler.seed >= 0, f"sampler.seed must be >= 0, got {sampler.seed}")
    require(sampler.startup > 0, f"sampler.startup must be > 0, got {sampler.startup}")
    require(
        isinstance(space, dict) and space != {}, f"space must map config keys to ranges or choices, got {space!r:.60}"
    )
    for key in ("seed", "hydra.run.dir"):
        require(key not in space, f"space: {key} is set by the search itself")
    study = parse_study(
        content | {"metrics": [metric], "variants": {POINT: []}}, name=folder.resolve().name, place=str(path)
    )
    return Search(study, {key: _distribution(key, space[key], path) for key in space}, trials, sampler, pruning)


def _distribution(key: str, entry: Any, path: Path) -> BaseDistribution:
    """Optuna's distribution of one key, of whole numbers if ends and step are; choices are values of overrides."""
    reason = f"must be {{low, high}}, optionally with log: true or step, or {{choices: [...]}}, got {entry!r:.60}"
    given = dict(entry) if isinstance(entry, dict) else {}
    numbers = [value for name, value in given.items() if name not in ("log", "choices")]
    plain = all(type(number) in (int, float) and math.isfinite(number) for number in numbers)
    try:
        if set(given) == {"choices"} and isinstance(given["choices"], list):
            words = [override_word(value) for value in given["choices"]]
            if len(set(words)) == len(words) > 1:
                return CategoricalDistribution(words)
            reason = f"choices must be at least two different values, got {entry['choices']!r:.60}"
        elif plain and {"low", "high"} <= set(given) and isinstance(given.get("log", False), bool):
            kind = IntDistribution if all(isinstance(number, int) for number in numbers) else FloatDistribution
            with warnings.catch_warnings(action="error"):  # a step that does not divide the range
                return kind(**given)
    except (TypeError, ValueError, UserWarning) as error:
        reason = one_line(str(error))
    raise DataError(f"{path}: space.{key}: {reason}")


def override_word(value: Any) -> str:
    """A value of a YAML file in Hydra's override grammar."""
    if isinstance(value, list):
        return f"[{','.join(override_word(entry) for entry in value)}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{override_word(entry)}' for key, entry in value.items())}}}"
    if not isinstance(value, str):
        return repr(value) if isinstance(value, float) else json.dumps(value)
    if re.fullmatch(r"(?!(true|false|null|none|inf|nan)$)[a-z_][\w./-]*", value, re.IGNORECASE):
        return value
    return quoted(value)


def as_word(drawn: Any) -> str:
    """A drawn value as it is written in overrides: six digits of a float."""
    return repr(float(f"{drawn:.6g}")) if isinstance(drawn, float) else str(drawn)


def ends(values: Any) -> list[str]:
    """Both ends of a range, or all choices, as override values."""
    both = values.choices if isinstance(values, CategoricalDistribution) else (values.low, values.high)
    return [as_word(value) for value in both]


def plan_point(search: Search, params: Mapping[str, Any], *, root: Path) -> Plan:
    """The trainings of one point: the base with its values, once per seed; without values the base itself. Raises
    `ConfigError` if the config breaks a rule.
    """
    overrides = tuple(f"{key}={as_word(value)}" for key, value in params.items())
    try:
        return plan_study(dataclasses.replace(search.study, variants={POINT: overrides}), root=root)
    except ConfigError as error:
        raise ConfigError(str(error).removeprefix(f"variant {POINT}: ")) from error


def check_space(search: Search, *, root: Path) -> Plan:
    """Compose and check the base, and both ends or all choices of every parameter; return the plan of the base.

    The other parameters are at their first value, so a rule about two of them may still refuse a point later.
    Raises `ConfigError` for a key that the config does not have, or a value that it refuses.
    """
    base = plan_point(search, {}, root=root)
    first = {key: ends(values)[0] for key, values in search.space.items()}
    for key, values in search.space.items():
        for word in ends(values):
            try:
                plan_point(search, first | {key: word}, root=root)
            except ConfigError as error:
                raise ConfigError(f"space: {key}={word}: {error}") from error
    return base


def search_key(search: Search, base: Plan) -> str:
    """Name of the optuna study: a hash of base, space, metric and seeds, but not of the number of points."""
    configs = [trial.config_hash for trial in base.trials]
    content = repr((configs, sorted(search.space.items()), search.metric.key, search.metric.higher))
    return f"{search.study.name}_{hashlib.sha256(content.encode()).hexdigest()[:8]}"
