"""What a search is: the file `search.yaml` of its folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from limoe.config_errors import did_you_mean
from limoe.errors import DataError
from limoe.search.space import Parameter, parse_parameter
from limoe.studies.study import Metric, Study, parse_study, unreadable

FILE = "search.yaml"
POINT = "point"  # the only variant of the study that a point is
SAMPLERS = ("tpe", "random")
_REQUIRED = ("question", "base", "space", "metric", "trials")
_OPTIONAL = ("seeds", "trial_timeout", "sampler", "pruning")


@dataclass(frozen=True)
class Sampler:
    """How points are drawn. `startup` points are drawn at random before `tpe` (the estimator of optuna) proposes."""

    name: str
    seed: int
    startup: int


@dataclass(frozen=True)
class Search:
    """Which values of `space` are best for `metric`, the mean over the seeds of each point?

    `study` holds what a search shares with studies: question, base overrides, seeds, metric, seconds per training.
    `trials` is the number of points. With `pruning` a point is given up where the curve of its first seed is worse
    than the median of the points before it.
    """

    study: Study
    space: Mapping[str, Parameter]
    trials: int
    sampler: Sampler
    pruning: bool

    @property
    def name(self) -> str:
        return self.study.name

    @property
    def metric(self) -> Metric:
        return self.study.metrics[0]


def read_search(folder: Path) -> Search:
    """The search in `folder`.

    Raises:
        DataError: there is no search.yaml, or a key of it breaks its rule.
    """
    path = folder / FILE
    try:
        # YAML as Hydra reads it, where 1e-4 is a number
        content = OmegaConf.to_container(OmegaConf.create(path.read_text(encoding="utf-8")), resolve=False)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; make a search with: limoe search new FOLDER") from error
    except (yaml.YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise unreadable(path, error) from error
    return parse_search(content, name=folder.resolve().name, place=str(path))


def parse_search(content: Any, *, name: str, place: str) -> Search:
    """Check and convert what a search.yaml holds; `place` is named in errors."""

    def require(condition: bool, message: str) -> None:
        if not condition:
            raise DataError(f"{place}: {message}")

    known = (*_REQUIRED, *_OPTIONAL)
    require(isinstance(content, dict), f"must hold keys and values, got {type(content).__name__}")
    for key in content:
        require(key in known, f"{key}: unknown key{did_you_mean(str(key), known)}")
    for key in _REQUIRED:
        require(content.get(key) not in (None, "", [], {}), f"{key} is missing")
    space, metric, trials, pruning = (content.get(key) for key in ("space", "metric", "trials", "pruning"))
    require(isinstance(space, dict), f"space must map config keys to ranges or choices, got {space!r:.60}")
    names = ("key", "higher", "name")
    for word in metric if isinstance(metric, dict) else ():
        require(word in names, f"metric: unknown key {word!r}{did_you_mean(str(word), names)}")
    whole = isinstance(metric, dict) and {"key", "higher"} <= set(metric)
    require(whole, f"metric must be {{key, higher}}, and perhaps name, got {metric!r:.60}")
    require(is_count(trials), f"trials must be a whole number > 0, got {trials!r:.60}")
    require(pruning is None or isinstance(pruning, bool), f"pruning must be true or false, got {pruning!r:.60}")
    shared = {key: content[key] for key in ("question", "base", "trial_timeout") if key in content}
    shared |= {"seeds": content.get("seeds") or [0], "metrics": [metric], "variants": {POINT: []}}
    return Search(
        study=parse_study(shared, name=name, place=place),
        space={key: parse_parameter(key, entry, require=require) for key, entry in space.items()},
        trials=trials,
        sampler=_sampler(content.get("sampler") or {}, trials=trials, require=require),
        pruning=bool(pruning),
    )


def is_count(value: Any, *, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _sampler(entry: Any, *, trials: int, require: Any) -> Sampler:
    known = isinstance(entry, dict) and set(entry) <= {"name", "seed", "startup"}
    require(known, f"sampler must be {{name, seed, startup}}, got {entry!r:.60}")
    name, seed = entry.get("name", "tpe"), entry.get("seed", 0)
    startup = entry.get("startup", max(4, min(10, trials // 4)))
    require(name in SAMPLERS, f"sampler.name must be one of {', '.join(SAMPLERS)}, got {name!r:.60}")
    require(is_count(seed, least=0), f"sampler.seed must be a whole number >= 0, got {seed!r:.60}")
    require(is_count(startup), f"sampler.startup must be a whole number > 0, got {startup!r:.60}")
    return Sampler(name, seed, startup)
