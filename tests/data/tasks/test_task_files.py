import json
from pathlib import Path
from typing import Any

import pytest

from limoe.data.tasks.task_files import read_karpathy, read_retrieval
from limoe.errors import DataError


def json_file(path: Path, content: dict[str, Any]) -> str:
    path.write_text(json.dumps(content))
    return str(path)


def test_retrieval_lists_are_read(tmp_path: Path) -> None:
    content = {"1k": {"images": [{"key": "b", "captions": ["x", "y"]}, {"key": "a", "captions": ["x"]}]}}
    listed = read_retrieval(json_file(tmp_path / "retrieval.json", content), name="1k")
    assert listed == [("b", ["x", "y"]), ("a", ["x"])]


@pytest.mark.parametrize(
    "images", [None, [], ["a"], [{"key": 1, "captions": ["x"]}], [{"key": "a"}], [{"key": "a", "captions": []}]]
)
def test_bad_retrieval_lists_are_told_in_one_line(tmp_path: Path, images: list[Any] | None) -> None:
    path = json_file(tmp_path / "retrieval.json", {"1k": {"images": images}})
    with pytest.raises(DataError, match=r"retrieval\.json: 1k must have the form \{"):
        read_retrieval(path, name="1k")
    with pytest.raises(DataError, match=r"retrieval\.json: 5k must have the form .* got None"):
        read_retrieval(path, name="5k")


def test_lists_from_the_side_of_the_texts(tmp_path: Path) -> None:
    texts = [{"text": "cat", "image_keys": ["b", "a"]}, {"text": "pet", "image_keys": ["c", "b"]}]
    listed = read_retrieval(json_file(tmp_path / "retrieval.json", {"many": {"texts": texts}}), name="many")
    assert listed == [("b", ["cat", "pet"]), ("a", ["cat"]), ("c", ["pet"])]
    path = json_file(tmp_path / "bad.json", {"many": {"texts": [{"text": "cat", "image_keys": "b"}]}})
    with pytest.raises(DataError, match="many must have the form"):
        read_retrieval(path, name="many")


KARPATHY = {
    "images": [
        {"filename": "COCO_val2014_1.jpg", "split": "test", "sentences": [{"raw": " A cat. "}, {"raw": "One cat"}]},
        {"filename": "COCO_val2014_2.jpg", "split": "train", "sentences": [{"raw": "A dog"}]},
        {"filename": "COCO_val2014_3.jpg", "split": "test", "sentences": [{"raw": "A car"}]},
    ]
}


def test_a_split_of_karpathys_list(tmp_path: Path) -> None:
    listed = read_karpathy(json_file(tmp_path / "dataset_coco.json", KARPATHY), split="test")
    assert listed == [("COCO_val2014_1", ["A cat.", "One cat"]), ("COCO_val2014_3", ["A car"])]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (KARPATHY, "has no image of split 'val'; there: test, train"),
        ({"images": [{"split": "val", "filename": "a.jpg"}]}, "images[0] must have the form {"),
        ({"images": {}}, "must have the form {"),
    ],
)
def test_bad_karpathy_lists_are_told_in_one_line(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as error:
        read_karpathy(json_file(tmp_path / "dataset_coco.json", content), split="val")
    assert message in str(error.value) and "dataset_coco.json" in str(error.value) and "\n" not in str(error.value)
