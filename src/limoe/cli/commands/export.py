"""Write a trained model as a folder for others: safetensors, config, tokenizer and a model card.

limoe export logs/emoji/runs/<run id> out=my_model            the run's newest checkpoint
limoe export RUN/checkpoints/step_00000500.ckpt out=my_model  another one
limoe export RUN out=my_model weights=raw overwrite=true      without the average over steps; replace an older export

`limoe.load("my_model")` reads it, without Lightning and Hydra.
"""

from pathlib import Path

from omegaconf import DictConfig

from limoe.checkpoints.export import export

POSITIONAL = "ckpt"


def run(cfg: DictConfig) -> None:
    """Export the model and print the files."""
    files = export(Path(cfg.ckpt), out=Path(cfg.out), weights=cfg.weights, overwrite=cfg.overwrite)
    for file in files:
        print(f"{file.stat().st_size:>15,} bytes  {file}")
    print(f'exported: limoe.load("{cfg.out}")')
