"""Runs that were trained one by one as a study: variants are the configs that differ in more than seed and folders."""

import json
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf
from tqdm import tqdm

from limoe.config_errors import did_you_mean
from limoe.errors import ConfigError
from limoe.studies.metrics import common_metrics, held_out, metric
from limoe.studies.naming import Unnamed, variant_names
from limoe.studies.plan import Plan
from limoe.studies.results import Row
from limoe.studies.run_set import Member, read_member
from limoe.studies.study import Metric, Study
from limoe.studies.trial import Trial
from limoe.studies.twins import published


def joint_study(folders: Sequence[Path], *, metrics: Sequence[str] | None) -> tuple[Study, Plan, list[Row]]:
    """The runs in `folders` as a study whose baseline is the variant of the first one.

    `metrics` are logged keys; None: all that the finished runs measured on held-out data, and success rates.

    Raises:
        ConfigError: nobody logged one of `metrics`, or runs of different tasks have nothing in common.
    """
    bar = tqdm(folders, desc="reading runs", unit="run", leave=False, delay=2, disable=None)
    groups = list(_groups([read_member(folder) for folder in bar]).values())
    baseline = next((number for number, group in enumerate(groups) if group[0].config), 0)
    unnamed = [Unnamed(group[0].config, _overrides(group), _given(group)) for group in groups]
    named = dict(zip(variant_names(unnamed, baseline=baseline), groups, strict=True))
    rows = [_row(name, member) for name, group in named.items() for member in sorted(group, key=_order)]
    chosen = _chosen(rows, metrics)
    shared = [word for word in unnamed[0].overrides if all(word in variant.overrides for variant in unnamed)]
    variants = {
        name: tuple(word for word in variant.overrides if word not in shared)
        for name, variant in zip(named, unnamed, strict=True)
    }
    study = Study(
        name="runs side by side",
        question=f"How do {len(rows)} runs of {len(named)} variant{'s' if len(named) > 1 else ''} compare?",
        base=tuple(shared),
        variants=variants,
        seeds=tuple(sorted({row.trial.seed for row in rows if row.trial.seed >= 0})),
        metrics=chosen,
        baseline=list(named)[baseline],
        published=published([word for variant in unnamed for word in variant.overrides]),
    )
    return study, _plan(study, rows, named), rows


def _groups(members: Sequence[Member]) -> dict[str, list[Member]]:
    """By config, in the order of their first members; a trial that died before it had one belongs to its variant."""
    groups: dict[str, list[Member]] = {}
    for member in members:
        key = json.dumps(member.config, sort_keys=True, default=str) if member.config else ""
        groups.setdefault(key or f"unread {member.variant or member.folder}", []).append(member)
    for key, group in [item for item in groups.items() if not item[1][0].config]:
        variant = _given(group)
        homes = [other for other, own in groups.items() if own[0].config and variant and _given(own) == variant]
        if len(homes) == 1:
            groups[homes[0]] += groups.pop(key)
    return groups


def _given(group: Sequence[Member]) -> str:
    names = {member.variant for member in group}
    return names.pop() if len(names) == 1 else ""


def _overrides(group: Sequence[Member]) -> tuple[str, ...]:
    """The shortest that any of its runs has written down."""
    return min((member.overrides for member in group if "overrides" in member.record), key=len, default=())


def _order(member: Member) -> tuple[int, str]:
    return member.seed, str(member.record.get("started", ""))


def _row(variant: str, member: Member) -> Row:
    digest = str(member.record.get("config_hash") or "")
    return Row(Trial(variant, member.seed, member.overrides, digest, member.folder), member.state, member.runs)


def _chosen(rows: Sequence[Row], keys: Sequence[str] | None) -> tuple[Metric, ...]:
    logged = sorted({key for row in rows for run in row.runs for key in run.metrics})
    for key in keys or ():
        if key not in logged:
            raise ConfigError(f"metrics: no run has logged {key!r}{did_you_mean(key, logged)}")
    if keys:
        return tuple(metric(key) for key in keys)
    found = [held_out(row) - {"val/loss"} for row in rows if row.metrics]
    if found and not set.intersection(*found) and any(other != found[0] for other in found):
        tasks = sorted({key.split("/")[1] for keys in found for key in keys if key.count("/") == 2})
        raise ConfigError(
            f"runs: no held-out metric but the loss is common to all (tasks: {', '.join(tasks)}); "
            "compare runs with the same eval=..., or name what to compare: metrics=[val/loss]"
        )
    return common_metrics(rows)


def _plan(study: Study, rows: Sequence[Row], groups: dict[str, list[Member]]) -> Plan:
    configs = {name: OmegaConf.create(group[0].config) for name, group in groups.items()}
    keys = tuple(metric.key for metric in study.metrics)
    return Plan(tuple(row.trial for row in rows), keys, None, max_steps={}, configs=configs)
