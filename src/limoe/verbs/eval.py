"""Evaluate a finished run on zero-shot and retrieval tasks.

limoe eval logs/train/runs/<run id>                             the run's own tasks
limoe eval RUN eval=[emoji_identity,emoji_retrieval]            other ones
limoe eval RUN eval=[emoji_subgroup] data.root=/path/to/data    data that has moved
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
from limoe.errors import ConfigError, DataError
from limoe.evaluation.tasks import evaluate_task, task_chance
from limoe.reporting.summary import print_metrics
from limoe.run_record import write_json

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
    metrics: dict[str, float] = {}
    chance: dict[str, float] = {}
    for name, task in tqdm(tasks.items(), desc="tasks", disable=None, leave=False):
        values = evaluate_task(model, data, task, batch_size=cfg.batch_size, progress=name)
        metrics |= {f"val/{name}/{key}": value for key, value in values.items()}
        chance |= {f"val/{name}/{key}": value for key, value in task_chance(task).items()}
    folder = Path(cfg.paths.output_dir)
    step = state["global_step"]
    write_json(
        folder / "results.json", {"checkpoint": str(checkpoint), "step": step, "metrics": metrics, "chance": chance}
    )
    print_metrics(metrics, chance, title=f"{checkpoint} (step {step})")
    print(f"results: {folder / 'results.json'}")


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
    if cfg.eval:
        run_cfg.eval = OmegaConf.to_container(cfg.eval, resolve=False)
    elif cfg.data.root is not None:
        raise ConfigError("data.root needs eval=[...]: the run's own tasks hold the path they were made with")
    return run_cfg
