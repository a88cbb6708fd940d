"""What a model can be evaluated on: one class per kind of task."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from limoe.types import PairDataset


class PromptSource(NamedTuple):
    """Where the names and templates of a task come from: a name for the record, and (path, sha256) of each file."""

    name: str = "inline"
    files: tuple[tuple[str, str], ...] = ()


INLINE = PromptSource()


@dataclass(frozen=True)
class ZeroShotTask:
    """Images, the class of each (`labels[i]` indexes `class_names`), and prompt templates with one `{}`.

    Two classes may have one name; no model can tell them apart, and ties count against it.
    """

    images: PairDataset
    labels: Sequence[int]
    class_names: Sequence[str]
    templates: Sequence[str]
    source: PromptSource = INLINE


@dataclass(frozen=True)
class RetrievalTask:
    """Images, texts, and every pair (image, text) that counts as a hit."""

    images: PairDataset
    texts: Sequence[str]
    positives: Sequence[tuple[int, int]]


@dataclass(frozen=True)
class LabelledImages:
    """Images and the class of each, a position in the list of classes of its task."""

    images: PairDataset
    labels: Sequence[int]


@dataclass(frozen=True)
class FewShotTask:
    """Learn a ridge regression on frozen features of `shots` images per class, once per seed; measure it on `test`.

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
    """Learn a logistic regression on frozen features of all of `train`; measure it on `test`.

    `strengths` of the L2 penalty are tried on a split of `train`.
    """

    train: LabelledImages
    test: LabelledImages
    class_names: Sequence[str]
    strengths: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


Task = ZeroShotTask | RetrievalTask | FewShotTask | LinearProbeTask
