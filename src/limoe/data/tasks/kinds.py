"""Evaluation tasks: one class per kind."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from limoe.types import PairDataset


class PromptSource(NamedTuple):
    """Source of the class names and templates of a task: a name for the record, and (path, sha256) of each file."""

    name: str = "inline"
    files: tuple[tuple[str, str], ...] = ()


INLINE = PromptSource()


@dataclass(frozen=True)
class ZeroShotTask:
    """Images, the class of each (`labels[i]` indexes `class_names`), and prompt templates with one `{}`.

    Two classes may have the same name: then their scores are equal, and ties count as errors.
    """

    images: PairDataset
    labels: Sequence[int]
    class_names: Sequence[str]
    templates: Sequence[str]
    source: PromptSource = INLINE


@dataclass(frozen=True)
class RetrievalTask:
    """Images, texts, and the positive pairs (image, text), as positions."""

    images: PairDataset
    texts: Sequence[str]
    positives: Sequence[tuple[int, int]]


@dataclass(frozen=True)
class LabelledImages:
    """Images and the class of each, as a position in `class_names` of the task."""

    images: PairDataset
    labels: Sequence[int]


@dataclass(frozen=True)
class FewShotTask:
    """Ridge regression on frozen features of `shots` training images per class, once per seed; measured on `test`.

    `l2` is the weight of its penalty.
    """

    train: LabelledImages
    test: LabelledImages
    class_names: Sequence[str]
    shots: Sequence[int] = (5, 10)
    seeds: Sequence[int] = (0, 1, 2)
    l2: float = 2.0**10


@dataclass(frozen=True)
class LinearProbeTask:
    """Logistic regression on frozen features of all of `train`; measured on `test`.

    `strengths` of the L2 penalty are tried on a split of `train`.
    """

    train: LabelledImages
    test: LabelledImages
    class_names: Sequence[str]
    strengths: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


Task = ZeroShotTask | RetrievalTask | FewShotTask | LinearProbeTask
