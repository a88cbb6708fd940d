"""Evaluation tasks from class lists, retrieval lists and datasets, built without reading an image."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from limoe.data.pairs import DescribedPairs, PairSubset
from limoe.data.scenes.shapes import HELD_OUT_COMBOS, TRAIN_COMBOS
from limoe.data.tasks.kinds import (
    FewShotTask,
    LabelledImages,
    LinearProbeTask,
    PromptSource,
    RetrievalTask,
    ZeroShotTask,
)
from limoe.data.tasks.task_files import ListedImage, read_karpathy, read_retrieval
from limoe.data.text.prompts import ClassList, read_classes
from limoe.errors import DataError, require_argument

log = logging.getLogger(__name__)

# Phrases of the grammar, so that prompts resemble training captions.
SCENE_TEMPLATES = ["{}", "just one {}", "the {}"]


def zero_shot(images: DescribedPairs, *, classes: ClassList) -> ZeroShotTask:
    """Zero-shot task on all images with a label among the classes; the number of others is logged.

    Raises `DataError` if none is left.
    """
    found = labelled(images, classes=classes)
    return ZeroShotTask(found.images, found.labels, classes.names, classes.templates, classes.source)


def zero_shot_from_file(
    images: DescribedPairs,
    *,
    path: str,
    label_space: str,
    label_field: str = "label",
    ids: str = "file",
    templates: str | Sequence[str] | None = None,
    templates_path: str | None = None,
    clean: bool = False,
    first_name: bool = False,
) -> ZeroShotTask:
    """Zero-shot task with classes and templates from a file; for layouts and arguments see `prompts.read_classes`.

    `ids="file"`: a label is the id of a class (in plain lists its position, counted from 0). `ids="sorted"`: the
    distinct labels of the images in sorted order are the classes, as with folders of images named by WordNet id.
    """
    require_argument(ids in ("file", "sorted"), "ids", "file or sorted", ids)
    classes = read_classes(
        path,
        label_space=label_space,
        label_field=label_field,
        templates=templates,
        templates_path=templates_path,
        clean=clean,
        first_name=first_name,
    )
    return zero_shot(images, classes=_by_sorted_labels(images, classes) if ids == "sorted" else classes)


def labelled(images: DescribedPairs, *, classes: ClassList) -> LabelledImages:
    """All images of the classes, each with the position of its class. Raises `DataError` if there is none."""
    position = {class_id: number for number, class_id in enumerate(classes.ids)}
    found = [position.get(images.describe(i).labels.get(classes.label_field, "")) for i in range(len(images))]
    kept = [i for i, label in enumerate(found) if label is not None]
    if not kept:
        raise DataError(
            f"evaluation task: none of {len(images)} images has a {classes.label_field!r} "
            f"among the {len(position)} classes"
        )
    if len(kept) < len(images):
        outside = len(images) - len(kept)
        log.info("evaluation task: %d of %d images are of no class and left out", outside, len(images))
    return LabelledImages(PairSubset(images, kept), [label for label in found if label is not None])


def few_shot(
    train: DescribedPairs,
    test: DescribedPairs,
    *,
    path: str,
    label_space: str,
    shots: Sequence[int],
    seeds: int,
    l2: float = 2.0**10,
) -> FewShotTask:
    """Few-shot task: ridge regression on `shots` images per class of `train`, for the seeds 0 to seeds - 1."""
    classes = read_classes(path, label_space=label_space)
    learn, measure = (labelled(images, classes=classes) for images in (train, test))
    return FewShotTask(learn, measure, classes.names, list(shots), range(seeds), l2)


def linear_probe(
    train: DescribedPairs, test: DescribedPairs, *, path: str, label_space: str, strengths: Sequence[float]
) -> LinearProbeTask:
    """Linear probe: logistic regression on all of `train`; `strengths` are the candidates for its L2 penalty."""
    classes = read_classes(path, label_space=label_space)
    learn, measure = (labelled(images, classes=classes) for images in (train, test))
    return LinearProbeTask(learn, measure, classes.names, list(strengths))


def synthetic_zero_shot(images: DescribedPairs, *, combos: str) -> ZeroShotTask:
    """Classify the main shape of each scene among the `heldout` colour-shape combinations, or among `all` 100."""
    require_argument(combos in ("heldout", "all"), "combos", "heldout or all", combos)
    chosen = HELD_OUT_COMBOS if combos == "heldout" else [*HELD_OUT_COMBOS, *TRAIN_COMBOS]
    names = [" ".join(combo) for combo in chosen]
    return zero_shot(
        images, classes=ClassList("combo", names, names, SCENE_TEMPLATES, PromptSource(f"synthetic scenes: {combos}"))
    )


def first_caption_retrieval(images: DescribedPairs) -> RetrievalTask:
    """Retrieval of each image by its first caption. Images with equal captions share one text and are all positives."""
    return _retrieval(images, [images.describe(i).captions[:1] for i in range(len(images))])


def all_captions_retrieval(images: DescribedPairs) -> RetrievalTask:
    """Retrieval with all captions of each image as its positives."""
    return _retrieval(images, [images.describe(i).captions for i in range(len(images))])


def retrieval_from_file(images: DescribedPairs, *, path: str, name: str) -> RetrievalTask:
    """Retrieval task of a list in a `retrieval.json` (form: `task_files.read_retrieval`); other images are left out.

    All captions listed for an image are its positives, and all images listed for a text.
    """
    position = {images.describe(i).key: i for i in range(len(images))}
    return _listed(images, position, read_retrieval(path, name=name), place=f"{path}: {name}")


def retrieval_from_karpathy(images: DescribedPairs, *, path: str, split: str) -> RetrievalTask:
    """Retrieval task of a split of a `dataset_coco.json` (form: `task_files.read_karpathy`), by image file name."""
    position = {PurePosixPath(images.describe(i).key).stem: i for i in range(len(images))}
    return _listed(images, position, read_karpathy(path, split=split), place=f"{path}: {split}")


def _listed(
    images: DescribedPairs, position: Mapping[str, int], listed: Sequence[ListedImage], *, place: str
) -> RetrievalTask:
    missing = [image.key for image in listed if image.key not in position]
    if missing:
        raise DataError(f"{place} lists {len(missing)} images that are not in the split, first {missing[0]!r}")
    subset = PairSubset(images, [position[image.key] for image in listed])
    return _retrieval(subset, [image.captions for image in listed])


def _retrieval(images: DescribedPairs, captions: Sequence[Sequence[str]]) -> RetrievalTask:
    texts: dict[str, int] = {}
    positives = {(i, texts.setdefault(text, len(texts))): None for i, own in enumerate(captions) for text in own}
    return RetrievalTask(images, list(texts), list(positives))


def _by_sorted_labels(images: DescribedPairs, classes: ClassList) -> ClassList:
    labels = (images.describe(i).labels.get(classes.label_field) for i in range(len(images)))
    ids = sorted({label for label in labels if label is not None})
    if len(ids) != len(classes.names):
        raise DataError(
            f"evaluation task: {len(images)} images have {len(ids)} distinct {classes.label_field!r} labels, "
            f"the list has {len(classes.names)} classes; all must occur where ids=sorted"
        )
    return classes._replace(ids=ids)
