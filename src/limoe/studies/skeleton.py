"""A new study to fill in."""

from pathlib import Path

from limoe.errors import ConfigError

_STUDY = """\
question: Does ... change ...?
paper: "" # where the paper speaks of it, and how certain we are
expectation: "" # what you think will come out, written before you run it
# what all variants share: overrides of `limoe train`
base: [experiment=demo, trainer.max_steps=300, trainer.max_time=null]
variants: # name: what it changes
  limoe: [aux_loss=limoe]
  classic: [aux_loss=classic]
baseline: limoe # what the others are compared with, seed by seed
seeds: [0, 1, 2]
metrics: # logged keys, best known first
  - {key: val/synthetic_heldout/zeroshot_top1, name: zero-shot on held-out combinations, higher: true}
trial_timeout: null # seconds
# the same question at the paper's size: limoe study FOLDER scale=paper dry_run=true
paper_scale:
  base: [experiment=paper_b16]
  # variants: {limoe: [...]} # those whose overrides speak of the small model
  metrics:
    - {key: val/imagenet_zero_shot/zeroshot_top1, name: zero-shot ImageNet}
"""
_README = """\
# {name}

    limoe study {folder} dry_run=true
    limoe study {folder}

What it asks, its variants and seeds are in `study.yaml`; rows, report and pictures in `results/`.
"""


def write_skeleton(folder: Path) -> list[Path]:
    """study.yaml and README.md of a new study.

    Raises:
        ConfigError: the folder exists already.
    """
    return write_new(folder, {"study.yaml": _STUDY, "README.md": _README.format(name=folder.name, folder=folder)})


def write_new(folder: Path, texts: dict[str, str]) -> list[Path]:
    """Files by name in a new folder, and never in one that is there.

    Raises:
        ConfigError: the folder exists already.
    """
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise ConfigError(f"{folder} exists already; choose another name") from error
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in texts]
