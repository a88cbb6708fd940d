import json

import pytest

from limoe.data.task_files import read_classes, read_retrieval
from limoe.errors import DataError

GOOD = {
    "templates": ["a photo of {}", "{}"],
    "label_spaces": {
        "pets": {"label_field": "kind", "classes": [{"id": "c", "name": "cat"}, {"id": "d", "name": "dog"}]}
    },
}


def classes_file(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def changed(**changes):
    return GOOD | {"label_spaces": {"pets": GOOD["label_spaces"]["pets"] | changes}}


def test_classes_are_read(tmp_path):
    classes = read_classes(classes_file(tmp_path / "classes.json", GOOD), label_space="pets")
    assert classes == ("kind", ["c", "d"], ["cat", "dog"], ["a photo of {}", "{}"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not readable as JSON"),
        ("[1, 2]", "must hold a JSON object, got [1, 2]"),
        ({}, "has no label space 'pets' under label_spaces; there: none"),
        (
            {"label_spaces": {"cars": {}, "boats": {}}},
            "has no label space 'pets' under label_spaces; there: cars, boats",
        ),
        (changed(label_field=None), "label_spaces.pets.label_field must be the name of a label, got None"),
        (changed(classes=[]), "label_spaces.pets.classes must be a list of {id, name}, got []"),
        (changed(classes=["cat"]), "classes[0].id must be a text that is not empty and occurs once, got None"),
        (
            changed(classes=[{"id": "c", "name": "cat"}, {"id": "c", "name": "dog"}]),
            "classes[1].id must be a text that is not empty and occurs once, got 'c'",
        ),
        (
            changed(classes=[{"id": "c", "name": "cat"}, {"id": "d", "name": " "}]),
            "classes[1].name must be a text that is not empty and occurs once, got ' '",
        ),
        (GOOD | {"templates": []}, "templates must be a list of texts with one {} each, got []"),
        (GOOD | {"templates": ["a photo"]}, "templates must be texts with exactly one {}, got 'a photo'"),
        (GOOD | {"templates": ["{} and {}"]}, "templates must be texts with exactly one {}, got '{} and {}'"),
    ],
)
def test_bad_classes_are_told_in_one_line(tmp_path, content, message):
    with pytest.raises(DataError) as error:
        read_classes(classes_file(tmp_path / "classes.json", content), label_space="pets")
    assert message in str(error.value)
    assert "classes.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_says_what_to_set(tmp_path):
    with pytest.raises(DataError, match=r"classes\.json does not exist; set data\.root"):
        read_classes(str(tmp_path / "classes.json"), label_space="pets")


def test_retrieval_lists_are_read(tmp_path):
    content = {"1k": {"images": [{"key": "b", "captions": ["x", "y"]}, {"key": "a", "captions": ["x"]}]}}
    listed = read_retrieval(classes_file(tmp_path / "retrieval.json", content), name="1k")
    assert listed == [("b", ["x", "y"]), ("a", ["x"])]


@pytest.mark.parametrize(
    "images", [None, [], ["a"], [{"key": 1, "captions": ["x"]}], [{"key": "a"}], [{"key": "a", "captions": []}]]
)
def test_bad_retrieval_lists_are_told_in_one_line(tmp_path, images):
    path = classes_file(tmp_path / "retrieval.json", {"1k": {"images": images}})
    with pytest.raises(DataError, match=r"retrieval\.json: 1k must have the form \{"):
        read_retrieval(path, name="1k")
    with pytest.raises(DataError, match=r"retrieval\.json: 5k must have the form .* got None"):
        read_retrieval(path, name="5k")
