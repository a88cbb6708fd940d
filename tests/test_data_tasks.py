import json

import pytest

from limoe.data.pairs import Description
from limoe.data.shapes import HELD_OUT_COMBOS
from limoe.data.synthetic import SyntheticScenes
from limoe.data.tar_shards import TarShards
from limoe.data.task_files import ClassList
from limoe.data.tasks import (
    first_caption_retrieval,
    retrieval_from_file,
    synthetic_zero_shot,
    zero_shot,
    zero_shot_from_file,
)
from limoe.errors import ConfigError, DataError


class Texts:
    """Descriptions alone: a task that reads a picture fails."""

    def __init__(self, descriptions):
        self.descriptions = [Description(*description) for description in descriptions]

    def __len__(self):
        return len(self.descriptions)

    def __getitem__(self, index):
        raise AssertionError("a picture was read")

    def describe(self, index):
        return self.descriptions[index]

    def captions(self):
        raise AssertionError("not needed")


PETS = Texts(
    [
        (["a dog", "one dog"], {"kind": "d"}, "p0"),
        (["a car"], {"kind": "x"}, "p1"),
        (["a cat"], {"kind": "c"}, "p2"),
        (["a dog"], {}, "p3"),
    ]
)
CLASSES = ClassList("kind", ["c", "d"], ["cat", "dog"], ["a {}"])


def test_pictures_of_no_class_are_left_out_and_counted(caplog):
    caplog.set_level("INFO")
    task = zero_shot(PETS, classes=CLASSES)
    assert [task.pictures.describe(i).key for i in range(len(task.pictures))] == ["p0", "p2"]
    assert task.labels == [1, 0]
    assert (task.class_names, task.templates) == (["cat", "dog"], ["a {}"])
    assert caplog.messages == ["zero-shot task: 2 of 4 pictures are of no class and left out"]


def test_no_picture_left_is_an_error():
    with pytest.raises(DataError, match="none of 4 pictures has a 'colour' among the 2 classes"):
        zero_shot(PETS, classes=CLASSES._replace(label_field="colour"))


def test_first_captions_that_are_equal_share_a_text():
    task = first_caption_retrieval(PETS)
    assert task.texts == ["a dog", "a car", "a cat"]
    assert task.positives == [(0, 0), (1, 1), (2, 2), (3, 0)]


def test_retrieval_from_a_list(tmp_path):
    path = tmp_path / "retrieval.json"
    images = [{"key": "p2", "captions": ["cat", "pet"]}, {"key": "p0", "captions": ["dog", "pet", "pet"]}]
    path.write_text(json.dumps({"small": {"images": images}}))
    task = retrieval_from_file(PETS, path=str(path), name="small")
    assert [task.pictures.describe(i).key for i in range(2)] == ["p2", "p0"]
    assert task.texts == ["cat", "pet", "dog"]
    assert task.positives == [(0, 0), (0, 1), (1, 2), (1, 1)]
    path.write_text(json.dumps({"small": {"images": [{"key": "p9", "captions": ["?"]}]}}))
    with pytest.raises(DataError, match=r"small lists 1 pictures that are not in the split, first 'p9'"):
        retrieval_from_file(PETS, path=str(path), name="small")


def test_synthetic_zero_shot_asks_for_the_main_shape():
    pictures = SyntheticScenes(split="heldout", size=50, image_size=16, seed=0)
    for combos, classes in (("heldout", 20), ("all", 100)):
        task = synthetic_zero_shot(pictures, combos=combos)
        assert len(set(task.class_names)) == classes
        assert len(task.pictures) == 50
        assert [task.class_names[label] for label in task.labels] == [
            task.pictures[i].labels["combo"] for i in range(50)
        ]
    assert set(task.class_names[:20]) == {" ".join(combo) for combo in HELD_OUT_COMBOS}
    with pytest.raises(ConfigError, match="eval combos must be heldout or all, got 'some'"):
        synthetic_zero_shot(pictures, combos="some")


@pytest.mark.parametrize(
    ("split", "space", "pictures", "classes"),
    [
        ("test_vendor", "identity", 1591, 1812),
        ("test_identity", "identity_heldout", 1121, 202),
        ("val", "subgroup", 333, 98),
    ],
)
def test_emoji_zero_shot(shared, split, space, pictures, classes):
    root = shared / "data" / "emoji-captions"
    task = zero_shot_from_file(
        TarShards(root=str(root), split=split), path=str(root / "classes.json"), label_space=space
    )
    assert (len(task.pictures), len(task.labels), len(task.class_names), len(task.templates)) == (
        pictures, pictures, classes, 8
    )  # fmt: skip
    if space != "subgroup":  # the short name is the first caption
        names = [task.class_names[label] for label in task.labels]
        captions = [task.pictures.describe(i).captions[0] for i in range(pictures)]
        assert sum(name == caption for name, caption in zip(names, captions, strict=True)) > 0.95 * pictures


def test_emoji_retrieval(shared):
    root = shared / "data" / "emoji-captions"
    pictures = TarShards(root=str(root), split="test_vendor")
    task = retrieval_from_file(pictures, path=str(root / "retrieval.json"), name="vendor_1k")
    assert len(task.pictures) == 1000
    assert {image for image, _ in task.positives} == set(range(1000))
    assert {text for _, text in task.positives} == set(range(len(task.texts)))
    for image, text in task.positives[:200]:
        assert task.texts[text] in task.pictures.describe(image).captions
