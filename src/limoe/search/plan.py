"""From the values of a point to its trainings, and the check of all values that a search may try."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from limoe.errors import ConfigError
from limoe.search.spec import POINT, Search
from limoe.studies.plan import Plan, plan_study


def plan_point(search: Search, words: Mapping[str, str], *, root: Path) -> Plan:
    """The trainings of one point: its values on top of the base, with each seed. No values: the base itself.

    Raises:
        ConfigError: the config breaks a rule.
    """
    overrides = tuple(f"{key}={word}" for key, word in words.items())
    try:
        return plan_study(replace(search.study, variants={POINT: overrides}), root=root)
    except ConfigError as error:
        raise ConfigError(str(error).removeprefix(f"variant {POINT}: ")) from error


def check_space(search: Search, *, root: Path) -> Plan:
    """The plan of the base, once it and both ends or all choices of every parameter have been composed and checked.

    The other parameters are at their first value meanwhile, so a rule about two of them may still refuse a point.

    Raises:
        ConfigError: a key that the config does not have, or a value that it refuses.
    """
    base = plan_point(search, {}, root=root)
    first = {key: parameter.probes[0] for key, parameter in search.space.items()}
    probe = replace(search, study=replace(search.study, seeds=search.study.seeds[:1]))
    for key, parameter in search.space.items():
        for word in parameter.probes:
            try:
                plan_point(probe, first | {key: word}, root=root)
            except ConfigError as error:
                raise ConfigError(f"space: {key}={word}: {error}") from error
    return base


def search_key(search: Search, base: Plan) -> str:
    """What makes two values comparable: the base, the space, the metric, the seeds. More points are the same search."""
    configs = [trial.config_hash for trial in base.trials]
    space = sorted((key, str(parameter)) for key, parameter in search.space.items())
    content = repr((configs, space, search.metric.key, search.metric.higher))
    return f"{search.name}_{hashlib.sha256(content.encode()).hexdigest()[:8]}"
