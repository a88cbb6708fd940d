"""Every transform that can be chosen, as the config builds it; no number of workers changes its images."""

from itertools import cycle
from pathlib import Path

import pytest
import torch
from PIL import Image

from limoe.config.objects import instantiate
from limoe.data.datamodule import PairDataModule
from limoe.data.images.library_transforms import LibraryTransform
from limoe.data.images.transforms import TrainTransform
from limoe.data.scenes.synthetic import SyntheticScenes
from limoe.data.text.tokenizers import ByteBPE
from tests.helpers.configs import composed
from tests.helpers.paths import CONFIGS


def options(group: str) -> list[str]:
    return sorted(file.stem for file in Path(CONFIGS / group).glob("*.yaml"))


def images(transform: LibraryTransform | TrainTransform, *, workers: int) -> torch.Tensor:
    """Two training batches."""
    data = PairDataModule(
        train=SyntheticScenes(split="train", size=16, image_size=16, seed=0),
        val=None,
        tokenizer=ByteBPE(vocab_size=260, length=4, max_captions=10),
        train_transform=transform,
        eval_transform=lambda image: torch.zeros(3, 1, 1),
        batch_size=8,
        num_workers=workers,
        seed=3,
    )
    return torch.cat([batch.images for batch in data.train_dataloader()])


@pytest.mark.parametrize("option", options("train_transform"))
def test_training_images_are_the_same_for_any_number_of_workers(option: str) -> None:
    cfg = composed(f"train_transform={option}", "data.augment.min_scale=0.5", "model.image_size=16")
    transform = instantiate(cfg.data.module.train_transform)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    alone = images(transform, workers=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert alone.shape == (16, 3, 16, 16)
    assert torch.equal(images(transform, workers=2), alone)


@pytest.mark.parametrize(
    ("train", "evaluation"), [*zip(options("train_transform"), cycle(options("eval_transform")), strict=False)]
)
def test_evaluation_and_training_share_the_normalization(train: str, evaluation: str) -> None:
    groups = (f"train_transform={train}", f"eval_transform={evaluation}")
    cfg = composed(*groups, "eval_transform.normalization=imagenet")
    built = instantiate(cfg.data.module.eval_transform)
    # White is 1; mean and standard deviation of red are 0.485 and 0.229.
    assert built(Image.new("RGB", (20, 10), "white"))[0].unique().tolist() == pytest.approx([(1 - 0.485) / 0.229])
    normalize = instantiate(cfg.data.module.train_transform).normalize
    assert torch.equal(normalize.scale, built.normalize.scale)
    assert torch.equal(normalize.shift, built.normalize.shift)


@pytest.mark.parametrize("data", ["emoji", "synthetic"])
def test_augmentation_is_the_data_set_s_own(data: str) -> None:
    cfg = composed(f"data={data}", "data.augment.flip=0.25")
    built = instantiate(cfg.data.module.train_transform)
    assert (built.min_scale, built.flip, built.jitter) == (cfg.data.augment.min_scale, 0.25, cfg.data.augment.jitter)
    steps = composed(f"data={data}", "data.augment.flip=0.25", "train_transform=randaugment").train_transform.steps
    assert steps.flip.p == 0.25 and list(steps.crop.scale) == [cfg.data.augment.min_scale, 1.0]


def test_steps_are_changed_by_name() -> None:
    cfg = composed(
        "train_transform=randaugment", "train_transform.steps.randaugment.num_ops=1", "~train_transform.steps.flip"
    )
    built = instantiate(cfg.train_transform)
    assert list(built.steps) == ["crop", "randaugment"] and built.steps["randaugment"].num_ops == 1
