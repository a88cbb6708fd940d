"""Train a model, evaluate it during training, and write a report.

limoe train experiment=demo                    built-in data, three minutes on two CPU cores
limoe train experiment=emoji_limoe data.root=DIR seed=1
limoe train aux_loss=[classic,local_text]      other losses on the routers
limoe train model.moe_layers=[] aux_loss=none  the dense model
limoe train -m seed=0,1,2 priority=bpr,random  a sweep
"""

import logging
import warnings
from pathlib import Path

import lightning as L
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from limoe.build import build_data, build_module, build_tasks, build_trainer, initialise
from limoe.callbacks.base import check_callbacks, stop_reason
from limoe.callbacks.leak_probe import position_leak
from limoe.config.checks import check
from limoe.config.model_settings import sparse_towers
from limoe.config.objects import config_hash
from limoe.evaluation.tasks import task_chance
from limoe.reporting.report import build as build_report
from limoe.reporting.terminal import print_summary
from limoe.runs.layout import CONFIG, TOKENIZER
from limoe.runs.record import RunRecord, is_writer
from limoe.training.lit_module import LIMoEModule

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> None:
    """Train one run in one folder; its run.json records the outcome.

    Raises:
        ConfigError: the config is refused, or the output folder already holds a run.
        DataError: data is missing or broken.
    """
    check(cfg)
    folder = Path(cfg.paths.output_dir)
    overrides = list(HydraConfig.get().overrides.task)
    with RunRecord(folder, config_hash=config_hash(cfg), seed=cfg.seed, overrides=overrides) as record:
        fit(cfg, record=record)
    if is_writer():
        if cfg.report:
            build_report(folder)
        print_summary(folder)


def fit(cfg: DictConfig, *, record: RunRecord) -> None:
    """Build all parts, train, and write the last value of every metric to `record`."""
    _quiet()
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    data = build_data(cfg)
    tasks = build_tasks(cfg)
    record.chance = {f"val/{name}/{key}": c for name, task in tasks.items() for key, c in task_chance(task).items()}
    module = build_module(cfg)
    trainer = build_trainer(cfg, tasks=tasks)
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    check_callbacks(callbacks, module)
    if trainer.is_global_zero:
        warn_of_leak(module)
    assert data.tokenizer is not None
    start = initialise(cfg, module.model, tokenizer=data.tokenizer)
    if trainer.is_global_zero:
        if start is not None:
            print(f"init_from: {start}")
        OmegaConf.save(OmegaConf.create(dict(module.hparams)), record.folder / CONFIG)
        data.tokenizer.save(record.folder / TOKENIZER)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=cfg.ckpt_path, weights_only=True)
        record.stop_reason = stop_reason(callbacks)
    finally:
        record.metrics = {key: value.item() for key, value in trainer.callback_metrics.items()}
        record.bad_samples = data.bad_counts()


def warn_of_leak(module: LIMoEModule) -> None:
    """Log the leak of routers that drop by position. Of two towers both must be sparse: one alone tells nobody."""
    towers = sparse_towers(module.hparams["model"])
    is_one_of_two = len(towers) == 1 and "model" not in towers
    leak = position_leak(module.model)
    if leak is not None and not is_one_of_two:
        log.warning(leak)


def _quiet() -> None:
    """Hide messages of Lightning and torch that a user of limoe cannot act on."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")  # steps are counted over epochs
    warnings.filterwarnings("ignore", message=".*`IterableDataset` has `__len__` defined.*")  # the length is right
