"""Evaluate a finished run on zero-shot and retrieval tasks.

limoe eval logs/train/runs/<run id>                             the run's own tasks
limoe eval RUN eval=[emoji_identity,emoji_retrieval]            other ones
limoe eval RUN eval=[emoji_subgroup] data.root=/path/to/data    data that has moved
limoe eval RUN eval_capacity_factor=1.05                        with limited seats; also says what the batch then does
"""

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from limoe.build import build_model, build_tasks
from limoe.config import instantiate
from limoe.data.datamodule import PairDataModule
from limoe.data.tokenizers import TextTokenizer
from limoe.errors import ConfigError, DataError, require
from limoe.evaluation.batch_dependence import batch_gap, depends_on_batch
from limoe.evaluation.tasks import evaluate_task, task_chance
from limoe.reporting.summary import print_metrics
from limoe.run_record import write_json
from limoe.types import MODALITIES

POSITIONAL = "ckpt"


def run(cfg: DictConfig) -> None:
    """Write results.json into a new folder and print the numbers beside chance.

    Raises:
        ConfigError: the checkpoint was not written by limoe.
        DataError: checkpoint, tokenizer or data is missing.
    """
    checkpoint = find_checkpoint(Path(cfg.ckpt))
    state = load_checkpoint(checkpoint)
    run_cfg = evaluation_config(state["hyper_parameters"], cfg)
    device = "cuda" if cfg.accelerator == "auto" and torch.cuda.is_available() else cfg.accelerator
    model = build_model(run_cfg)
    model.load_state_dict({k.removeprefix("model."): v for k, v in state["state_dict"].items()})
    model.to("cpu" if device == "auto" else device).eval()
    data: PairDataModule = instantiate(run_cfg.data.module)
    data.tokenizer = TextTokenizer.load(checkpoint.parents[1] / "tokenizer.json")
    tasks = build_tasks(run_cfg)
    results: dict[str, Any] = {"checkpoint": str(checkpoint), "step": state["global_step"], "metrics": {}, "chance": {}}
    for name, task in tqdm(tasks.items(), desc="tasks", disable=None, leave=False):
        values = evaluate_task(model, data, task, batch_size=cfg.batch_size, progress=name)
        results["metrics"] |= {f"val/{name}/{key}": value for key, value in values.items()}
        results["chance"] |= {f"val/{name}/{key}": value for key, value in task_chance(task).items()}
    tasks_to_probe = tasks if depends_on_batch(model) else {}
    results["batch_gap"] = {name: batch_gap(model, data, task) for name, task in tasks_to_probe.items()}
    folder = Path(cfg.paths.output_dir)
    write_json(folder / "results.json", results)
    print_metrics(results["metrics"], results["chance"], title=f"{checkpoint} (step {state['global_step']})")
    for name, gap in results["batch_gap"].items():
        print(gap_line(name, gap))
    print(f"results: {folder / 'results.json'}")


def gap_line(task: str, gap: dict[str, float]) -> str:
    """How far a batch moves the features of its samples, in one line."""
    parts = [f"{kind} mean {gap[f'{kind}_mean']:.2g}, max {gap[f'{kind}_max']:.2g}" for kind in MODALITIES]
    return f"features depend on the batch ({task}; cosine distance alone / in a batch of up to 64): {'; '.join(parts)}"


def find_checkpoint(path: Path) -> Path:
    """A .ckpt file as it is; of a run folder, checkpoints/last.ckpt."""
    checkpoint = path / "checkpoints" / "last.ckpt" if path.is_dir() else path
    if not checkpoint.is_file():
        raise DataError(f"ckpt: {checkpoint} does not exist; give a run folder or a .ckpt file")
    return checkpoint


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Tensors and plain containers only; nothing in the file is executed.

    Raises:
        DataError: the file is no checkpoint of limoe.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds on a broken file
        raise DataError(f"ckpt: {path} cannot be read as a checkpoint: {type(error).__name__}: {error}") from error
    if not isinstance(state, dict) or not {"state_dict", "hyper_parameters", "global_step"} <= state.keys():
        raise DataError(f"ckpt: {path} is no checkpoint of limoe")
    return state


def evaluation_config(hyper_parameters: dict[str, Any], cfg: DictConfig) -> DictConfig:
    """The run's config with the tasks and data settings asked for, without its training data."""
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
    elif cfg.data.root is not None:
        raise ConfigError("data.root needs eval=[...]: the run's own tasks hold the path they were made with")
    return run_cfg


def _set_eval_capacity(run_cfg: DictConfig, factor: Any) -> None:
    router = run_cfg.model.get("router")
    if not run_cfg.model.moe_layers or router is None or "eval_capacity_factor" not in router:
        raise ConfigError("eval_capacity_factor must be run for this model: it has no routers with seats to limit")
    is_number = isinstance(factor, int | float) and not isinstance(factor, bool)
    require(factor is None or is_number, "eval_capacity_factor", "a number, null or run", factor)
    router.eval_capacity_factor = factor
