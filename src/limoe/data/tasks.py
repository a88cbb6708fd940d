"""Evaluation tasks from class lists, retrieval lists and datasets, built without reading a picture."""

import logging
from collections.abc import Sequence

from limoe.data.pairs import DescribedPairs, PairSubset
from limoe.data.shapes import HELD_OUT_COMBOS, TRAIN_COMBOS
from limoe.data.task_files import ClassList, read_classes, read_retrieval
from limoe.errors import DataError, require
from limoe.types import RetrievalTask, ZeroShotTask

log = logging.getLogger(__name__)

# Wordings of the grammar, so that prompts look like training captions.
SCENE_TEMPLATES = ["{}", "just one {}", "the {}"]


def zero_shot(pictures: DescribedPairs, *, classes: ClassList) -> ZeroShotTask:
    """All pictures whose label is one of the classes; the others are left out, and the log says how many.

    Raises `DataError` if none is left.
    """
    position = {class_id: number for number, class_id in enumerate(classes.ids)}
    found = [position.get(pictures.describe(i).labels.get(classes.label_field, "")) for i in range(len(pictures))]
    kept = [i for i, label in enumerate(found) if label is not None]
    if not kept:
        raise DataError(
            f"zero-shot task: none of {len(pictures)} pictures has a {classes.label_field!r} "
            f"among the {len(position)} classes"
        )
    if len(kept) < len(pictures):
        outside = len(pictures) - len(kept)
        log.info("zero-shot task: %d of %d pictures are of no class and left out", outside, len(pictures))
    labels = [label for label in found if label is not None]
    return ZeroShotTask(PairSubset(pictures, indices=kept), labels, classes.names, classes.templates)


def zero_shot_from_file(pictures: DescribedPairs, *, path: str, label_space: str) -> ZeroShotTask:
    """The classes and templates of a `classes.json` (form: `task_files.read_classes`)."""
    return zero_shot(pictures, classes=read_classes(path, label_space=label_space))


def synthetic_zero_shot(pictures: DescribedPairs, *, combos: str) -> ZeroShotTask:
    """The main shape of each scene among the `heldout` colour-shape combinations, or among `all` 100."""
    require(combos in ("heldout", "all"), "eval combos", "heldout or all", combos)
    chosen = HELD_OUT_COMBOS if combos == "heldout" else [*HELD_OUT_COMBOS, *TRAIN_COMBOS]
    names = [" ".join(combo) for combo in chosen]
    return zero_shot(pictures, classes=ClassList("combo", names, names, SCENE_TEMPLATES))


def first_caption_retrieval(pictures: DescribedPairs) -> RetrievalTask:
    """Each picture with its first caption. Pictures with equal captions share one text and are all right for it."""
    return _retrieval(pictures, [pictures.describe(i).captions[:1] for i in range(len(pictures))])


def retrieval_from_file(pictures: DescribedPairs, *, path: str, name: str) -> RetrievalTask:
    """A list of a `retrieval.json` (form: `task_files.read_retrieval`); pictures not on it are left out.

    All captions listed for a picture are right for it.
    """
    listed = read_retrieval(path, name=name)
    position = {pictures.describe(i).key: i for i in range(len(pictures))}
    missing = [picture.key for picture in listed if picture.key not in position]
    if missing:
        raise DataError(f"{path}: {name} lists {len(missing)} pictures that are not in the split, first {missing[0]!r}")
    subset = PairSubset(pictures, indices=[position[picture.key] for picture in listed])
    return _retrieval(subset, [picture.captions for picture in listed])


def _retrieval(pictures: DescribedPairs, captions: Sequence[Sequence[str]]) -> RetrievalTask:
    texts: dict[str, int] = {}
    positives = {(i, texts.setdefault(text, len(texts))): None for i, own in enumerate(captions) for text in own}
    return RetrievalTask(pictures, list(texts), list(positives))
