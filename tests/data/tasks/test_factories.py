import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from limoe.data.pairs import Description
from limoe.data.scenes.shapes import HELD_OUT_COMBOS
from limoe.data.scenes.synthetic import SyntheticScenes
from limoe.data.shards.tar_shards import TarShards
from limoe.data.tasks.factories import (
    all_captions_retrieval,
    few_shot,
    first_caption_retrieval,
    linear_probe,
    retrieval_from_file,
    retrieval_from_karpathy,
    synthetic_zero_shot,
    zero_shot,
    zero_shot_from_file,
)
from limoe.data.text.prompts import ClassList
from limoe.errors import DataError


class Texts:
    """Descriptions alone: a task that reads an image fails."""

    def __init__(self, descriptions: list[tuple[Any, ...]]) -> None:
        self.descriptions = [Description(*description) for description in descriptions]

    def __len__(self) -> int:
        return len(self.descriptions)

    def __getitem__(self, index: int) -> None:
        raise AssertionError("an image was read")

    def describe(self, index: int) -> Description:
        return self.descriptions[index]

    def captions(self) -> None:
        raise AssertionError("not needed")


def described(images: Any, index: int) -> Description:
    return images.describe(index)


PETS: Any = Texts(
    [
        (["a dog", "one dog"], {"kind": "d"}, "p0"),
        (["a car"], {"kind": "x"}, "p1"),
        (["a cat"], {"kind": "c"}, "p2"),
        (["a dog"], {}, "p3"),
    ]
)
CLASSES = ClassList("kind", ["c", "d"], ["cat", "dog"], ["a {}"])


def test_images_of_no_class_are_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    task = zero_shot(PETS, classes=CLASSES)
    assert [described(task.images, i).key for i in range(len(task.images))] == ["p0", "p2"]
    assert task.labels == [1, 0]
    assert (task.class_names, task.templates) == (["cat", "dog"], ["a {}"])
    assert caplog.messages == ["evaluation task: 2 of 4 images are of no class and left out"]


def test_no_image_left_is_an_error() -> None:
    with pytest.raises(DataError, match="none of 4 images has a 'colour' among the 2 classes"):
        zero_shot(PETS, classes=CLASSES._replace(label_field="colour"))


def test_first_captions_that_are_equal_share_a_text() -> None:
    task = first_caption_retrieval(PETS)
    assert task.texts == ["a dog", "a car", "a cat"]
    assert task.positives == [(0, 0), (1, 1), (2, 2), (3, 0)]


def test_all_captions_are_right() -> None:
    task = all_captions_retrieval(PETS)
    assert task.texts == ["a dog", "one dog", "a car", "a cat"]
    assert task.positives == [(0, 0), (0, 1), (1, 2), (2, 3), (3, 0)]


def classes_file(tmp_path: Path, content: dict[str, Any]) -> str:
    path = tmp_path / "classes.json"
    path.write_text(json.dumps(content))
    return str(path)


def test_positions_of_a_plain_list_are_ids(tmp_path: Path) -> None:
    path = classes_file(tmp_path, {"pets": ["cat", "dog"], "templates_a": ["a {}"]})
    images = Texts([(["x"], {"n": "1"}, "p0"), (["x"], {"n": "0"}, "p1")])
    task = zero_shot_from_file(images, path=path, label_space="pets", label_field="n", templates="a")
    assert task.labels == [1, 0] and task.source.name.endswith("pets, templates a")
    with pytest.raises(ValueError, match=r"^ids must be file or sorted, got 'first'"):
        zero_shot_from_file(images, path=path, label_space="pets", ids="first", templates="a")


def test_sorted_labels_are_ids(tmp_path: Path) -> None:
    path = classes_file(tmp_path, {"pets": ["cat", "dog"], "templates_a": ["a {}"]})
    settings = {"path": path, "label_space": "pets", "label_field": "kind", "templates": "a", "ids": "sorted"}
    images = Texts([(["x"], {"kind": f"n{number}"}, str(number)) for number in (7, 3, 7)])
    assert zero_shot_from_file(images, **settings).labels == [1, 0, 1]
    images.descriptions = images.descriptions[:1]
    with pytest.raises(DataError, match="have 1 distinct 'kind' labels, the list has 2 classes"):
        zero_shot_from_file(images, **settings)


def test_few_shot_and_linear_probe_tasks(tmp_path: Path) -> None:
    classes = [{"id": "d", "name": "dog"}, {"id": "c", "name": "cat"}]
    path = classes_file(
        tmp_path, {"templates": ["{}"], "label_spaces": {"k": {"label_field": "kind", "classes": classes}}}
    )
    task = few_shot(PETS, PETS, path=path, label_space="k", shots=[1, 2], seeds=2)
    assert (task.train.labels, task.class_names) == ([0, 1], ["dog", "cat"])
    assert (list(task.shots), list(task.seeds), task.l2) == ([1, 2], [0, 1], 1024.0)
    assert [described(task.test.images, i).key for i in range(2)] == ["p0", "p2"]
    probe = linear_probe(PETS, PETS, path=path, label_space="k", strengths=[0.1])
    assert (probe.test.labels, probe.strengths) == ([0, 1], [0.1])


def test_retrieval_from_karpathys_list(tmp_path: Path) -> None:
    path = tmp_path / "dataset_coco.json"
    image = {"filename": "p2.jpg", "split": "test", "sentences": [{"raw": "a cat"}, {"raw": "a pet"}]}
    path.write_text(json.dumps({"images": [image]}))
    images = Texts([(["?"], {}, "val2014/p1.jpg"), (["?"], {}, "val2014/p2.jpg")])
    task = retrieval_from_karpathy(images, path=str(path), split="test")
    assert [described(task.images, i).key for i in range(len(task.images))] == ["val2014/p2.jpg"]
    assert (task.texts, task.positives) == (["a cat", "a pet"], [(0, 0), (0, 1)])


def test_retrieval_from_a_list(tmp_path: Path) -> None:
    path = tmp_path / "retrieval.json"
    images = [{"key": "p2", "captions": ["cat", "pet"]}, {"key": "p0", "captions": ["dog", "pet", "pet"]}]
    path.write_text(json.dumps({"small": {"images": images}}))
    task = retrieval_from_file(PETS, path=str(path), name="small")
    assert [described(task.images, i).key for i in range(2)] == ["p2", "p0"]
    assert task.texts == ["cat", "pet", "dog"]
    assert task.positives == [(0, 0), (0, 1), (1, 2), (1, 1)]
    path.write_text(json.dumps({"small": {"images": [{"key": "p9", "captions": ["?"]}]}}))
    with pytest.raises(DataError, match=r"small lists 1 images that are not in the split, first 'p9'"):
        retrieval_from_file(PETS, path=str(path), name="small")


def test_synthetic_zero_shot_asks_for_the_main_shape() -> None:
    images = SyntheticScenes(split="heldout", size=50, image_size=16, seed=0)
    for combos, classes in (("heldout", 20), ("all", 100)):
        task = synthetic_zero_shot(images, combos=combos)
        assert len(set(task.class_names)) == classes
        assert len(task.images) == 50
        assert [task.class_names[label] for label in task.labels] == [task.images[i].labels["combo"] for i in range(50)]
    assert set(task.class_names[:20]) == {" ".join(combo) for combo in HELD_OUT_COMBOS}
    with pytest.raises(ValueError, match=r"^combos must be heldout or all, got 'some'"):
        synthetic_zero_shot(images, combos="some")


@pytest.mark.parametrize(
    ("split", "space", "images", "classes"),
    [
        ("test_vendor", "identity", 1591, 1812),
        ("test_identity", "identity_heldout", 1121, 202),
        ("val", "subgroup", 333, 98),
    ],
)
def test_emoji_zero_shot(shared: Path, split: str, space: str, images: int, classes: int) -> None:
    root = shared / "data" / "emoji-captions"
    task = zero_shot_from_file(
        TarShards(root=str(root), split=split), path=str(root / "classes.json"), label_space=space
    )
    assert (len(task.images), len(task.labels), len(task.class_names), len(task.templates)) == (
        images, images, classes, 8
    )  # fmt: skip
    if space != "subgroup":  # the short name is the first caption
        names = [task.class_names[label] for label in task.labels]
        captions = [described(task.images, i).captions[0] for i in range(images)]
        assert sum(name == caption for name, caption in zip(names, captions, strict=True)) > 0.95 * images


def test_emoji_retrieval(shared: Path) -> None:
    root = shared / "data" / "emoji-captions"
    images = TarShards(root=str(root), split="test_vendor")
    task = retrieval_from_file(images, path=str(root / "retrieval.json"), name="vendor_1k")
    assert len(task.images) == 1000
    assert {image for image, _ in task.positives} == set(range(1000))
    assert {text for _, text in task.positives} == set(range(len(task.texts)))
    for image, text in task.positives[:200]:
        assert task.texts[text] in described(task.images, image).captions


def test_emoji_with_several_images_per_text(shared: Path) -> None:
    root = shared / "data" / "emoji-captions"
    images = TarShards(root=str(root), split="test_identity")
    task = retrieval_from_file(images, path=str(root / "retrieval.json"), name="identity_multi")
    per_text = Counter(text for _, text in task.positives)
    assert len(task.texts) == 202 and min(per_text.values()) > 1
    assert all(task.texts[text] == described(task.images, image).captions[0] for image, text in task.positives)
