"""Definition of a study, and reading of `study.yaml` in its folder."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from limoe.config.errors import did_you_mean, yaml_problem
from limoe.errors import DataError, one_line

FILE = "study.yaml"
_REQUIRED = ("question", "base", "variants", "seeds", "metrics")
_OPTIONAL = ("paper", "baseline", "expectation", "trial_timeout", "paper_scale", "answer", "overview")
MAX_LINES = 10  # of a figure: each has a colour of its own
_VARIANT = ("overrides", "tuned", "grid", "seeds")


@dataclass(frozen=True)
class Metric:
    """A logged metric that the study compares. `higher`: True if higher is better, None if neither is."""

    key: str
    name: str
    higher: bool | None = True


class Published(NamedTuple):
    """A published number for comparison: its name, its value, and its source or "unverified"."""

    name: str
    value: str
    certainty: str


class Tuned(NamedTuple):
    """Overrides of one variant that were chosen for it alone, and the values that were tried, in words."""

    words: tuple[str, ...]
    grid: str = ""


@dataclass(frozen=True)
class Panel:
    """A figure of a study's own: one line per name in `lines`, through the means of its variants.

    `x` is a quantity of `panels.QUANTITIES` or a config key, `metric` the key of a metric, `log` the kind of x axis.
    """

    name: str
    title: str
    x: str
    metric: str
    lines: dict[str, tuple[str, ...]]
    log: bool = False
    x_label: str = ""


@dataclass(frozen=True)
class Study:
    """A comparison of several variants of one run over seeds.

    `base` and the values of `variants` are overrides of `limoe train`, with those of `tuned` last. `own_seeds` are by
    variant, for variants that do not run with `seeds`; `overview` are the variants in the overview and the curves.
    `paper_scale` is the same study at the paper's size, with the texts and seeds of this one. `trial_timeout` is in
    seconds per trial (None: no limit). `links` are other pages: name and address relative to the report.
    """

    name: str
    question: str
    base: tuple[str, ...]
    variants: dict[str, tuple[str, ...]]
    seeds: tuple[int, ...]
    metrics: tuple[Metric, ...]
    baseline: str
    paper: str = ""
    expectation: str = ""
    answer: str = ""
    trial_timeout: float | None = None
    paper_scale: "Study | None" = None
    published: tuple[Published, ...] = field(default=())
    tuned: dict[str, Tuned] = field(default_factory=dict)
    own_seeds: dict[str, tuple[int, ...]] = field(default_factory=dict)
    links: tuple[tuple[str, str], ...] = ()
    figures: tuple[Panel, ...] = ()
    overview: tuple[str, ...] = ()

    def seeds_of(self, variant: str) -> tuple[int, ...]:
        """The seeds that a variant runs with."""
        return self.own_seeds.get(variant, self.seeds)

    @property
    def shown(self) -> list[str]:
        """Variants in the overview and the curves: those of `overview`, without any all."""
        return [name for name in self.overview if name in self.variants] or list(self.variants)


def read_study(folder: Path) -> Study:
    """Read the study in `folder`.

    Raises:
        DataError: there is no study.yaml, or it is no YAML, or a key is unknown, missing or of a wrong type.
    """
    path = folder / FILE
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; make a study with: limoe study new NAME") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error
    return parse_study(content, name=folder.resolve().name, place=str(path))


def unreadable(path: Path, error: Exception) -> DataError:
    """The error of an unreadable YAML file, with a hint for a list inside an unquoted override."""
    problem = one_line(str(error))
    hint = ""
    if isinstance(error, yaml.MarkedYAMLError):
        problem = yaml_problem(error)
        if problem.endswith("but got '['"):  # a list in the list: [aux_loss=[a,b]]
            hint = '; an override with a list needs quotes: "aux_loss=[a,b]"'
    return DataError(f"{path} is not readable as YAML: {problem}{hint}")


def parse_study(content: Any, *, name: str, place: str) -> Study:
    """Check and convert the content of a study.yaml; errors begin with `place`."""
    known = (*_REQUIRED, *_OPTIONAL, "published", "figures")
    if not isinstance(content, dict):
        raise DataError(f"{place} must hold keys and values, got {type(content).__name__}")
    for key in content:
        _require(key in known, place, f"{key}: unknown key{did_you_mean(str(key), known)}")
    for key in _REQUIRED:
        _require(content.get(key) not in (None, "", [], {}), place, f"{key} is missing")
    variants = content["variants"]
    maps = _variant_maps(variants, place)
    words = {name: read_overrides(own.get("overrides"), place, f"variants.{name}") for name, own in maps.items()}
    tuned = {name: _tuned(own, place, f"variants.{name}") for name, own in maps.items() if {"tuned", "grid"} & set(own)}
    baseline = content.get("baseline", next(iter(variants)))
    _require(baseline in variants, place, f"baseline must be one of {', '.join(variants)}, got {baseline!r}")
    timeout = content.get("trial_timeout")
    is_time = timeout is None or (type(timeout) in (int, float) and timeout > 0)
    _require(is_time, place, f"trial_timeout must be a number of seconds > 0, got {timeout!r}")
    metrics = tuple(_metric(entry, place) for entry in _list(content["metrics"], place, "metrics"))
    figures = [_panel(entry, variants, metrics, place) for entry in _list(content.get("figures", []), place, "figures")]
    names = [panel.name for panel in figures]
    _require(len(set(names)) == len(names), place, f"figures: the names must be distinct, got {names}")
    study = Study(
        name=name,
        question=_text(content, "question", place),
        base=read_overrides(content["base"], place, "base"),
        variants={name: own + (tuned[name].words if name in tuned else ()) for name, own in words.items()},
        seeds=_seeds(content["seeds"], place, "seeds"),
        metrics=metrics,
        baseline=baseline,
        paper=_text(content, "paper", place),
        expectation=_text(content, "expectation", place),
        answer=_text(content, "answer", place),
        trial_timeout=None if timeout is None else float(timeout),
        published=tuple(_published(entry, place) for entry in _list(content.get("published", []), place, "published")),
        tuned=tuned,
        figures=tuple(figures),
        overview=_members(content.get("overview", []), variants, place, "overview"),
        own_seeds={
            key: _seeds(own["seeds"], place, f"variants.{key}.seeds") for key, own in maps.items() if "seeds" in own
        },
    )
    if content.get("paper_scale") is None:
        return study
    large = _paper_scale(content, place)
    return replace(study, paper_scale=parse_study(large, name=f"{name}_paper_scale", place=f"{place}: paper_scale"))


def _variant_maps(variants: Any, place: str) -> dict[str, dict[str, Any]]:
    """The variants as maps, with names and keys checked."""
    _require(isinstance(variants, dict), place, "variants must map names to lists of overrides")
    for variant, value in variants.items():
        plain = isinstance(variant, str) and variant.replace("-", "_").replace(".", "_").isidentifier()
        _require(plain, place, f"variants: {variant!r} must be a name of letters, digits, _, - and .")
        for key in _as_map(value):
            _require(key in _VARIANT, place, f"variants.{variant}.{key}: unknown key{did_you_mean(str(key), _VARIANT)}")
    return {variant: _as_map(value) for variant, value in variants.items()}


def _paper_scale(content: dict[str, Any], place: str) -> dict[str, Any]:
    """Content of the study at the paper's size: other base and metrics, and other overrides for some variants.

    Other overrides replace the tuned values too; a variant keeps its seeds unless others are given.
    """
    large = content["paper_scale"]
    variants = content["variants"]
    keys = {"base", "metrics"}
    rule = f"paper_scale must hold base, metrics and, where they differ, variants, got {large!r:.60}"
    _require(isinstance(large, dict) and keys <= set(large) <= {*keys, "variants"}, place, rule)
    own = large.get("variants", {})
    _require(isinstance(own, dict) and set(own) <= set(variants), place, "paper_scale.variants: unknown variant")
    kept = {name: {"seeds": value["seeds"]} for name, value in variants.items() if "seeds" in _as_map(value)}
    own = {name: {**kept.get(name, {}), **_as_map(value)} for name, value in own.items()}
    without: dict[str, Any] = {"answer": "", "trial_timeout": None, "paper_scale": None, "figures": []}
    return {**content, **large, "variants": variants | own, **without}


def _require(condition: bool, place: str, message: str) -> None:
    if not condition:
        raise DataError(f"{place}: {message}")


def _text(content: dict[str, Any], key: str, place: str) -> str:
    value = content.get(key) or ""
    _require(isinstance(value, str), place, f"{key} must be a text, got {value!r:.60}")
    return " ".join(value.split())


def _list(value: Any, place: str, key: str) -> list[Any]:
    _require(isinstance(value, list), place, f"{key} must be a list, got {value!r:.60}")
    return value


def _as_map(value: Any) -> dict[str, Any]:
    """A variant as the map that it is or that its list of overrides is short for."""
    return value if isinstance(value, dict) else {"overrides": value}


def _tuned(own: dict[str, Any], place: str, key: str) -> Tuned:
    words = read_overrides(own.get("tuned"), place, f"{key}.tuned")
    _require(len(words) > 0, place, f"{key}.tuned must list the overrides that were chosen from {key}.grid")
    return Tuned(words, _text(own, "grid", f"{place}: {key}"))


def read_overrides(value: Any, place: str, key: str) -> tuple[str, ...]:
    """Check a list of overrides, None for an empty one; errors begin with `place` and name `key`."""
    words = _list([] if value is None else value, place, key)
    for word in words:
        is_override = isinstance(word, str) and ("=" in word or word.startswith("~"))
        _require(is_override, place, f"{key} must be a list of overrides key=value, got {word!r:.60}")
        name = word.partition("=")[0].lstrip("+~")
        _require(name not in ("seed", "hydra.run.dir"), place, f"{key}: {name} is set by the study itself")
    return tuple(words)


def _seeds(value: Any, place: str, key: str) -> tuple[int, ...]:
    seeds = _list(value, place, key)
    whole = len(seeds) > 0 and all(type(seed) is int and seed >= 0 for seed in seeds)
    _require(whole and len(set(seeds)) == len(seeds), place, f"{key} must be distinct whole numbers, got {seeds!r:.60}")
    return tuple(seeds)


def _metric(entry: Any, place: str) -> Metric:
    rule = f"metrics must list keys, or {{key, name, higher}}, got {entry!r:.60}"
    known = ("key", "name", "higher")
    if isinstance(entry, str):
        entry = {"key": entry}
    _require(isinstance(entry, dict), place, rule)
    for word in entry:
        _require(word in known, place, f"metrics: unknown key {word!r}{did_you_mean(str(word), known)}")
    _require("key" in entry, place, rule)
    key, name, higher = entry["key"], entry.get("name", entry["key"]), entry.get("higher", True)
    _require(isinstance(key, str) and isinstance(name, str) and isinstance(higher, bool | None), place, rule)
    return Metric(key, name, higher)


def _panel(entry: Any, variants: dict[str, Any], metrics: Sequence[Metric], place: str) -> Panel:
    known = tuple(field.name for field in fields(Panel))
    whole = isinstance(entry, dict) and {"name", "title", "x", "lines"} <= set(entry)
    _require(whole, place, f"figures must list {{name, title, x, lines}}, got {entry!r:.60}")
    for word in entry:
        _require(word in known, place, f"figures: unknown key {word!r}{did_you_mean(str(word), known)}")
    name, keys = entry["name"], [metric.key for metric in metrics]
    plain = isinstance(name, str) and name.isidentifier() and name != "answer"
    _require(plain, place, f"figures: the name of a file, of letters, digits and _, not answer, got {name!r:.60}")
    place = f"{place}: figures.{name}"
    found = {"metric": keys[0], "log": False, "x_label": "", **entry}
    texts = all(isinstance(found[word], str) for word in ("title", "x", "x_label"))
    _require(texts, place, "title, x and x_label must be texts")
    _require(isinstance(found["log"], bool), place, f"log must be true or false, got {found['log']!r:.60}")
    _require(found["metric"] in keys, place, f"metric must be one of {', '.join(keys)}, got {found['metric']!r:.60}")
    lines = found["lines"]
    few = isinstance(lines, dict) and 1 <= len(lines) <= MAX_LINES
    _require(few, place, f"lines must map 1 to {MAX_LINES} names to lists of variants, got {lines!r:.60}")
    found["lines"] = {str(key): _members(own, variants, place, f"lines.{key}") for key, own in lines.items()}
    return Panel(**found)


def _members(value: Any, variants: dict[str, Any], place: str, key: str) -> tuple[str, ...]:
    for word in _list(value, place, key):
        _require(word in variants, place, f"{key}: {word!r} is no variant{did_you_mean(str(word), variants)}")
    return tuple(value)


def _published(entry: Any, place: str) -> Published:
    keys = ("name", "value", "certainty")
    whole = isinstance(entry, dict) and set(entry) == set(keys)
    _require(whole, place, f"published must list {{name, value, certainty}}, got {entry!r:.60}")
    return Published(*(str(entry[key]) for key in keys))
