"""Train every variant of a study over its seeds, then write the rows and the report.

limoe study experiments/02_aux_losses                   runs the trials without a result; 02_aux_losses means the same
limoe study experiments/02_aux_losses dry_run=true      the trials that it would run, and the cost
limoe study experiments/02_aux_losses seeds=[0] only=[limoe,classic]
limoe study FOLDER scale=paper dry_run=true             the same at the paper's size
limoe study FOLDER report_only=true                     the report again, on the rows in its results; nothing is trained
limoe study FOLDER hydra/launcher=joblib hydra.launcher.n_jobs=2
limoe study new experiments/my_study                    a study to fill in
"""

import dataclasses
import sys
from pathlib import Path

from omegaconf import DictConfig

from limoe.config.places import experiment_dir
from limoe.errors import ConfigError, require
from limoe.studies.plan import plan_study
from limoe.studies.report import carry_out
from limoe.studies.skeleton import write_skeleton
from limoe.studies.study import FILE, Study, read_study

POSITIONAL = ["study"]
GOES_ON = True


def run(cfg: DictConfig) -> None:
    """Run the study; the exit code is 1 if a trial has no result.

    Raises:
        ConfigError: a variant's config is refused; nothing was run.
        DataError: study.yaml is missing or broken.
    """
    words = [str(word) for word in cfg.study]
    if words and words[0] == "new":
        require(len(words) == 2, "study", "new FOLDER", " ".join(words))
        write_skeleton(Path(words[1]), command="study")
        return
    require(len(words) == 1, "study", "one folder with a study.yaml, or new FOLDER", " ".join(words))
    folder, home = experiment_dir(Path(words[0]), file=FILE)
    study = chosen(at_scale(read_study(folder), cfg.scale), cfg)
    root = Path(cfg.paths.log_dir).resolve() / "studies" / study.name
    plan = plan_study(study, root=root, extra=list(cfg.overrides))
    results = "results" if cfg.scale is None else f"results_{cfg.scale}"
    out = home / results if cfg.out is None else Path(cfg.out)
    carry_out(study, plan, cfg, root=root, out=out)


def at_scale(study: Study, scale: str | None) -> Study:
    """The study itself, or the study at the paper's scale."""
    require(scale in (None, "paper"), "scale", "paper, or null", scale)
    if scale is None:
        return study
    if study.paper_scale is None:
        raise ConfigError(f"scale=paper: the study {study.name} has no paper_scale; add it to study.yaml")
    return study.paper_scale


def chosen(study: Study, cfg: DictConfig) -> Study:
    """The study with the command's seeds and variants; the command's seeds restrict those that a variant has itself."""
    seeds = study.seeds if cfg.seeds is None else tuple(cfg.seeds)
    only = tuple(study.variants) if cfg.only is None else tuple(cfg.only)
    for name in only:
        if name not in study.variants:
            raise ConfigError(f"only: {name!r} is no variant of this study (there are {', '.join(study.variants)})")
    own = {name: tuple(s for s in known if cfg.seeds is None or s in seeds) for name, known in study.own_seeds.items()}
    study = dataclasses.replace(study, seeds=seeds, own_seeds=own)
    dropped = [name for name in study.variants if name in only and not study.seeds_of(name)]
    variants = {name: words for name, words in study.variants.items() if name in only and name not in dropped}
    if dropped:
        print(f"left out, since seeds={list(seeds)} has none of their seeds: {', '.join(dropped)}", file=sys.stderr)
    require(len(variants) > 0, "seeds", "such that a variant has one of them", list(seeds))
    baseline = study.baseline if study.baseline in variants else next(name for name in only if name in variants)
    return dataclasses.replace(study, variants=variants, baseline=baseline)
