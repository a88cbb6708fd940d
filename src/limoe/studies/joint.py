"""Separately trained runs as a study: equal configs, apart from seed, are a variant."""

import json
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from tqdm import tqdm

from limoe.config.overrides import override_key
from limoe.config.trees import leaves, mapped
from limoe.studies.baselines import published
from limoe.studies.metrics import chosen_metrics
from limoe.studies.plan import Plan
from limoe.studies.results import Row
from limoe.studies.run_set import read_row
from limoe.studies.study import Study

_SHOWN = 2  # differences in a name; the others are counted


@dataclass(frozen=True)
class Group:
    """Runs of one variant. `config` is their common config, empty if none can be read."""

    config: dict[str, Any]
    rows: list[Row]

    @property
    def words(self) -> tuple[str, ...]:
        """The shortest recorded overrides of its runs."""
        return min(filter(None, (row.trial.overrides for row in self.rows)), key=len, default=())

    @property
    def given(self) -> str:
        """The variant's name if a study gave all runs the same one, else empty."""
        names = {row.trial.variant for row in self.rows}
        return names.pop() if len(names) == 1 else ""


def joint_study(folders: Sequence[Path], *, metrics: Sequence[str] | None) -> tuple[Study, Plan, list[Row]]:
    """The runs in `folders` as a study; the baseline is the variant of the first one with a readable config.

    `metrics` are logged keys; None: all held-out metrics of the finished runs, and success rates.

    Raises:
        ConfigError: no run logged one of `metrics`, or the runs have no held-out metric in common.
    """
    bar = tqdm(folders, desc="reading runs", unit="run", leave=False, delay=2, disable=None)
    groups = grouped([read_row(folder) for folder in bar])
    named = dict(zip(variant_names(groups), groups, strict=True))
    rows = [
        replace(row, trial=replace(row.trial, variant=name))
        for name, group in named.items()
        for row in sorted(group.rows, key=lambda row: (row.trial.seed, row.started))
    ]
    shared = _shared(groups)
    study = Study(
        name="runs side by side",
        question=f"How do {len(rows)} runs of {len(named)} variant{'s' if len(named) > 1 else ''} compare?",
        base=tuple(shared),
        variants={name: tuple(word for word in group.words if word not in shared) for name, group in named.items()},
        seeds=tuple(sorted({row.trial.seed for row in rows if row.trial.seed >= 0})),
        metrics=chosen_metrics(rows, metrics),
        baseline=next(iter(named)),
        published=published([word for group in groups for word in group.words]),
    )
    configs = {name: OmegaConf.create(group.config) for name, group in named.items()}
    keys = tuple(metric.key for metric in study.metrics)
    return study, Plan(tuple(row.trial for row in rows), keys, None, max_steps={}, configs=configs), rows


def grouped(rows: Sequence[Row]) -> list[Group]:
    """Group runs by config, in the order of their first runs, unreadable ones last.

    A key with the seed in its value in every run, as a number or within a text, counts as equal (a run's config is
    resolved, so `${seed}` is a number there). A trial without a config belongs to its variant.
    """
    readable = [row for row in rows if row.config]
    fixed = {
        key for row in readable for key, value in leaves(row.config) if _without_seed(value, row.trial.seed) == value
    }
    groups: dict[str, Group] = {}
    for row in readable:
        config = _seedless(row, fixed)
        name = repr(sorted((key, repr(value)) for key, value in leaves(config)))
        groups.setdefault(name, Group(config, [])).rows.append(row)
    for row in rows:
        if not row.config:
            variant = row.trial.variant
            homes = [group for group in groups.values() if variant and group.given == variant]
            home = homes[0] if homes else groups.setdefault(str(row.trial.folder), Group({}, []))
            home.rows.append(row)
    return list(groups.values())


def _seedless(row: Row, fixed: Collection[str]) -> dict[str, Any]:
    seed = row.trial.seed
    return mapped(row.config, lambda key, value: value if key in fixed else _without_seed(value, seed))


def variant_names(groups: Sequence[Group]) -> list[str]:
    """One distinct name per group.

    A name given by a study is kept if no other group has it. Other groups are named by the overrides that not all have
    in common; if those are equal, by the first config keys that differ.
    """
    shared = _shared(groups)
    own = [[word for word in group.words if word not in shared] for group in groups]
    keys = [override_key(word) for words in own for word in words]
    if any(group.config and own.count(words) > 1 for group, words in zip(groups, own, strict=True)):
        own = [[] for _ in groups]
        keys = _differing([group.config for group in groups if group.config])
    given = [group.given for group in groups]
    names: list[str] = []
    for group, words in zip(groups, own, strict=True):
        parts = words or _values(group.config, dict.fromkeys(keys)) or group.words
        more = f" and {len(parts) - _SHOWN} more" if len(parts) > _SHOWN else ""
        name = ", ".join(parts[:_SHOWN]) + more if group.config else "config unknown"
        name = group.given if given.count(group.given) == 1 and group.given else name or "baseline"
        numbered = (f"{name} ({number})" for number in range(2, len(names) + 3))
        names.append(name if name not in names else next(other for other in numbered if other not in names))
    return names


def _shared(groups: Sequence[Group]) -> list[str]:
    """Overrides that all groups with a config have in common."""
    known = [group.words for group in groups if group.config]
    return [word for word in known[0] if all(word in words for words in known)] if known else []


def _differing(configs: Sequence[dict[str, Any]]) -> list[str]:
    """Keys in which configs differ; of keys with equal values in all configs only the first."""
    flat = [dict(leaves(config)) for config in configs]
    first: dict[str, str] = {}
    for key in dict.fromkeys(key for own in flat for key in own):
        column = [own.get(key) for own in flat]
        if any(value != column[0] for value in column):
            first.setdefault(repr(column), key)
    return list(first.values())


def _values(config: dict[str, Any], keys: Iterable[str]) -> list[str]:
    flat = {key: json.dumps(value, default=str).strip('"') for key, value in leaves(config)}
    return [f"{key}={flat[key]}" if key in flat else f"other {key}" for key in keys]


def _without_seed(value: Any, seed: int) -> Any:
    """A value with `<seed>` in place of the seed, as a number or within a text."""
    if isinstance(value, str):
        return re.sub(rf"(?<!\d){seed}(?!\d)", "<seed>", value)
    return "<seed>" if type(value) is int and value == seed else value
