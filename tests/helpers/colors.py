"""Images of one colour, a model whose features are colours, and evaluation tasks whose answers are known."""

from collections.abc import Iterator, Sequence

import lightning as L
import torch
from PIL import Image as Pillow
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from limoe.data.tasks.kinds import FewShotTask, LabelledImages, RetrievalTask, ZeroShotTask
from limoe.types import Pair

COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "black": (0, 0, 0)}


class Images:
    """Plain images of one colour each."""

    def __init__(self, colors: list[str]) -> None:
        self.colors = colors

    def __len__(self) -> int:
        return len(self.colors)

    def __getitem__(self, index: int) -> Pair:
        color = self.colors[index]
        return Pair(Pillow.new("RGB", (200, 100), COLORS[color]), [color], {}, str(index))

    def captions(self) -> Iterator[str]:
        return iter(self.colors)


class ColorModel(nn.Module):
    """Features are colours, so every image fits its own name best."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.logit_scale = nn.Parameter(torch.tensor(10.0).log())
        self.frozen = nn.Dropout()
        self.modes: set[tuple[bool, bool]] = set()  # training? with gradients?

    def encode_image(self, images: Tensor) -> Tensor:
        self.modes.add((self.training, torch.is_grad_enabled()))
        return F.normalize(images.mean((2, 3)) * self.scale + 1e-3, dim=-1)

    def image_trunk(self, images: Tensor) -> Tensor:
        self.modes.add((self.training, torch.is_grad_enabled()))
        return images.mean((2, 3)) * self.scale

    def encode_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        self.modes.add((self.training, torch.is_grad_enabled()))
        return F.normalize(torch.tensor(list(COLORS.values()))[ids[:, 0]] / 255 * self.scale + 1e-3, dim=-1)


class ColorTokenizer:
    """The last word of a text is its colour."""

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids = torch.tensor([[list(COLORS).index(text.split()[-1])] for text in texts])
        return ids, torch.ones_like(ids, dtype=torch.bool)


class ColorData(L.LightningDataModule):
    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = ColorTokenizer()

    def image_loader(self, images: Images) -> Iterator[Tensor]:
        for start in range(0, len(images), 2):
            colors = [COLORS[images[i].captions[0]] for i in range(start, min(start + 2, len(images)))]
            yield torch.tensor(colors)[:, :, None, None].expand(-1, 3, 4, 4) / 255

    def train_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(torch.rand(12, 3, 4, 4), batch_size=2)  # type: ignore[arg-type]  # a tensor is a dataset

    val_dataloader = train_dataloader


def zero_shot_task() -> ZeroShotTask:
    """Four images. One red image is labelled "blue", so it counts as a mistake; "green" is the class of none."""
    images = Images(["red", "red", "blue", "black"])
    return ZeroShotTask(images, [0, 2, 2, 3], ["red", "green", "blue", "black"], ["{}", "a photo of {}"])


def retrieval_task() -> RetrievalTask:
    return RetrievalTask(Images(["red", "blue", "red"]), ["red", "blue"], [(0, 0), (1, 1), (2, 0)])


def labelled(*colors: str) -> LabelledImages:
    return LabelledImages(Images(list(colors)), [["red", "blue"].index(color) for color in colors])


def few_shot_task() -> FewShotTask:
    """Of each class more images than shots; two test images carry the other one's label."""
    test = LabelledImages(Images(["red", "blue", "red", "blue"]), [0, 1, 0, 0])
    return FewShotTask(labelled(*["red", "blue"] * 4), test, ["red", "blue"], shots=(1, 2), seeds=(0, 1), l2=1.0)
