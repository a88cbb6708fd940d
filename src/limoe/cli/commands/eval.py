"""Evaluate a finished run: zero-shot, retrieval, few-shot and linear-probe tasks, each number with its 95 % interval.

limoe eval logs/train/runs/<run id>                         the run's own tasks
limoe eval RUN eval=[emoji_identity,fashion,caltech]        other tasks, also on datasets it was not trained on
LIMOE_DATA_DIR=/datasets limoe eval RUN eval=[caltech]      parent folder of the datasets: /datasets/caltech-photos ...
limoe eval RUN eval=[emoji_subgroup] data.root=DIR          folder of the run's own dataset
limoe eval RUN eval_capacity_factor=1.05                    with limited slots; prints how features depend on the batch
"""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from limoe.build import build_tasks, build_trained
from limoe.checkpoints.files import find_checkpoint, load_checkpoint
from limoe.config.model_settings import sparse_towers
from limoe.data.tasks.kinds import RetrievalTask, Task, ZeroShotTask
from limoe.errors import ConfigError, require
from limoe.evaluation.batch_dependence import batch_gap, depends_on_batch
from limoe.evaluation.encode import FeatureExtractor
from limoe.evaluation.tasks import evaluate_task, evaluation_record
from limoe.files import sha256, write_json
from limoe.reporting.terminal import print_evaluations
from limoe.runs.layout import TOKENIZER
from limoe.types import MODALITIES

POSITIONAL = "ckpt"


def run(cfg: DictConfig) -> None:
    """Write one `<task>.json` per task and results.json into a new folder, and print the metrics with chance."""
    checkpoint = find_checkpoint(Path(cfg.ckpt))
    state = load_checkpoint(checkpoint)
    run_cfg = evaluation_config(state["hyper_parameters"], cfg)
    tokenizer = checkpoint.parents[1] / TOKENIZER
    model, data = build_trained(run_cfg, state, tokenizer=tokenizer, accelerator=cfg.accelerator)
    encoder = FeatureExtractor(model, data, batch_size=cfg.batch_size)
    tasks = build_tasks(run_cfg)
    about = {"path": str(checkpoint), "step": state["global_step"], "sha256": sha256(checkpoint)}
    folder = Path(cfg.paths.output_dir)
    records = []
    for name, task in tqdm(tasks.items(), desc="tasks", disable=None, leave=False):
        config = OmegaConf.to_container(run_cfg.eval[name], resolve=True)
        records.append(evaluate(encoder, name, task, folder=folder, about={"checkpoint": about, "config": config}))
    gaps = {}
    if depends_on_batch(model):
        gaps = {n: batch_gap(model, data, t) for n, t in tasks.items() if isinstance(t, ZeroShotTask | RetrievalTask)}
    write_json(folder / "results.json", summary(records, about=about) | {"batch_gap": gaps})
    print_evaluations(records, title=f"{checkpoint} (step {about['step']})")
    for name, gap in gaps.items():
        print(gap_line(name, gap))
    print(f"results: {folder / 'results.json'}")


def evaluate(
    encoder: FeatureExtractor, name: str, task: Task, *, folder: Path, about: dict[str, Any]
) -> dict[str, Any]:
    """Run one task and write its record."""
    metric = evaluate_task(encoder, task, progress=name)
    record = evaluation_record(name, task, metric) | about
    write_json(folder / f"{name}.json", record)
    return record


def summary(records: list[dict[str, Any]], *, about: dict[str, Any]) -> dict[str, Any]:
    """Metrics of all tasks in one record, under `val/<task>/<metric>`."""
    metrics = {f"val/{r['task']}/{key}": metric for r in records for key, metric in r["metrics"].items()}
    return {
        "checkpoint": about["path"],
        "step": about["step"],
        "sha256": about["sha256"],
        "metrics": {key: metric["value"] for key, metric in metrics.items()},
        "chance": {key: metric["chance"] for key, metric in metrics.items()},
        "interval": {key: [metric["low"], metric["high"]] for key, metric in metrics.items()},
        "n": {key: metric["n"] for key, metric in metrics.items()},
    }


def gap_line(task: str, gap: dict[str, float]) -> str:
    """A result of `batch_gap` in one line."""
    parts = [f"{kind} mean {gap[f'{kind}_mean']:.2g}, max {gap[f'{kind}_max']:.2g}" for kind in MODALITIES]
    return f"features depend on the batch ({task}; cosine distance alone / in a batch of up to 64): {'; '.join(parts)}"


def evaluation_config(hyper_parameters: dict[str, Any], cfg: DictConfig) -> DictConfig:
    """The run's config with the tasks and data settings of the command, without its training data."""
    run_cfg = OmegaConf.create(hyper_parameters)
    for key, value in cfg.data.items():
        if value is not None:
            run_cfg.data[key] = value
    for key, value in (("train", None), ("val", None), ("batch_size", cfg.batch_size)):
        run_cfg.data.module[key] = value
    if cfg.eval_capacity_factor != "run":
        _set_eval_capacity(run_cfg, cfg.eval_capacity_factor)
    if cfg.eval:
        run_cfg.eval = OmegaConf.to_container(cfg.eval, resolve=False)
        _set_root(run_cfg, cfg.data.root)
    elif cfg.data.root is not None:
        raise ConfigError("data.root needs eval=[...]: the run's own tasks keep the path that they were made with")
    return run_cfg


def _set_root(run_cfg: DictConfig, root: str | None) -> None:
    """Remove a recorded `data.root` that does not exist on this machine, so that LIMOE_DATA_DIR is used."""
    recorded = run_cfg.data.get("root")
    if root is None and recorded is not None and not Path(recorded).is_dir():
        run_cfg.data.root = None
    if root is not None and root not in str(OmegaConf.to_container(run_cfg.eval, resolve=True)):
        own = run_cfg.data.get("dataset") or "none in files"
        raise ConfigError(
            f"data.root={root} is for the run's own dataset ({own}), which no task of eval=[...] reads; "
            "set LIMOE_DATA_DIR to the parent folder of the other datasets"
        )


def _set_eval_capacity(run_cfg: DictConfig, factor: Any) -> None:
    sparse = sparse_towers(OmegaConf.to_container(run_cfg.model))  # type: ignore[arg-type]
    routers = [OmegaConf.select(run_cfg, f"{key}.router") for key in sparse]
    if not routers or any(router is None or "eval_capacity_factor" not in router for router in routers):
        raise ConfigError("eval_capacity_factor must be run for this model: it has no routers with slots to limit")
    is_number = isinstance(factor, int | float) and not isinstance(factor, bool)
    require(factor is None or is_number, "eval_capacity_factor", "a number, null or run", factor)
    for router in routers:
        router.eval_capacity_factor = factor
