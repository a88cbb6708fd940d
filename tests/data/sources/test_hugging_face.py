"""With a stand-in for the few calls that are used, and with the package itself where it is installed."""

import io
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from limoe.data.bad_samples import BadSampleError
from limoe.data.sources.hugging_face import HuggingFaceDataset
from limoe.errors import DataError


def png(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(buffer, "PNG")
    return buffer.getvalue()


class ClassLabel(SimpleNamespace):
    """Labels as numbers, with their `names`."""


class FakeRows:
    """The part of `datasets.Dataset` that is used: rows by number, columns by slice."""

    def __init__(self, columns: dict[str, list[Any]], features: dict[str, ClassLabel | None] | None = None) -> None:
        self.columns = columns
        self.features = features or dict.fromkeys(columns)
        self.column_names = list(columns)

    def with_format(self, kind: None) -> "FakeRows":
        assert kind is None
        return self

    def select_columns(self, names: list[str]) -> "FakeRows":
        return FakeRows({name: self.columns[name] for name in names}, self.features)

    def cast_column(self, name: str, feature: Any) -> "FakeRows":
        assert feature.decode is False
        return self

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, place: int | slice) -> dict[str, Any]:
        return {name: values[place] for name, values in self.columns.items()}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """`hub.rows` is what any name leads to; `hub.asked` are the arguments of the last call."""
    fake: Any = ModuleType("datasets")
    fake.rows = None
    fake.asked = None
    fake.config = SimpleNamespace(HF_CACHE_HOME=str(tmp_path))
    fake.ClassLabel = ClassLabel
    fake.Image = lambda decode: SimpleNamespace(decode=decode)

    def load_dataset(path: str, name: str | None, **settings: Any) -> Any:
        fake.asked = (path, name, settings)
        if fake.rows is None:
            raise FileNotFoundError(f"no dataset\n{path}")
        return fake.rows

    fake.load_dataset = load_dataset
    fake.load_from_disk = lambda path: {"train": fake.rows}
    monkeypatch.setitem(sys.modules, "datasets", fake)
    return fake


def dataset(path: str = "me/images", **settings: list[str] | str) -> HuggingFaceDataset:
    return HuggingFaceDataset(
        **({"path": path, "split": "train", "image_column": "image", "caption_column": "text"} | settings)
    )


def stored(*images: bytes | str | None) -> list[dict[str, bytes | str | None]]:
    return [
        {"bytes": data, "path": None} if isinstance(data, bytes) else {"bytes": None, "path": data} for data in images
    ]


def test_rows_become_pairs(hub: Any) -> None:
    labels = ClassLabel(names=["cat", "dog"])
    columns = {
        "image": stored(png(), png("blue"), png()),
        "text": ["one", ["two", " three "], "four"],
        "label": [1, -1, None],
        "source": ["s", "s", None],
    }
    hub.rows = FakeRows(columns, dict.fromkeys(columns) | {"label": labels})
    data = dataset(label_columns=["label", "source"], name="small", revision="abc")
    assert hub.asked == ("me/images", "small", {"split": "train", "revision": "abc"})
    assert [tuple(data.describe(i)) for i in range(3)] == [
        (["one"], {"label": "dog", "source": "s"}, "0"),
        (["two", "three"], {"source": "s"}, "1"),
        (["four"], {}, "2"),
    ]
    assert data[1].image.getpixel((0, 0)) == (0, 0, 255)
    assert data[1][1:] == tuple(data.describe(1))
    assert list(data.captions()) == ["one", "two", "three", "four"]
    with pytest.raises(IndexError):
        data.describe(3)


def test_bad_rows_are_left_out_and_counted(hub: Any) -> None:
    hub.rows = FakeRows(
        {"image": stored(*[png()] * 5), "text": ["a", None, "b", "c", " "], "id": ["k", "l", "k", "", "m"]}
    )
    data = dataset(key_column="id")
    assert [data.describe(i).key for i in range(len(data))] == ["k"]
    assert dict(data.bad.counts) == {"no_caption": 2, "duplicate_key": 1, "no_key": 1}
    assert [(bad.place, bad.key) for bad in data.bad.first] == [("me/images (train)", key) for key in "1234"]


def test_images_are_read_from_the_cache_and_nowhere_else(hub: Any, tmp_path: Path) -> None:
    (tmp_path / "cached.png").write_bytes(png("blue"))
    hub.rows = FakeRows({"image": stored(str(tmp_path / "cached.png"), "/etc/hostname", b"x", None), "text": ["a"] * 4})
    data = dataset()
    assert data[0].image.getpixel((0, 0)) == (0, 0, 255)
    for index, kind in enumerate(["outside", "unknown_format", "no_image"], start=1):
        with pytest.raises(BadSampleError) as error:
            data[index]
        assert error.value.sample.kind == kind


def test_a_saved_folder_is_loaded_from_disk(hub: Any, tmp_path: Path) -> None:
    hub.rows = FakeRows({"image": stored(png()), "text": ["a"]})
    (tmp_path / "dataset_dict.json").write_text("{}")
    assert len(dataset(str(tmp_path))) == 1
    assert hub.asked is None
    with pytest.raises(DataError, match=r"\(val\) cannot be loaded: KeyError: 'val'; check path, name and split"):
        dataset(str(tmp_path), split="val")


def test_a_saved_dataset_without_splits_stands_for_no_split(hub: Any, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{}")
    hub.rows = FakeRows({"image": stored(png()), "text": ["a"]})
    hub.load_from_disk = lambda path: hub.rows
    for own, said in ((None, "without a split"), ("test", "of the split test")):
        hub.rows.split = own
        with pytest.raises(DataError, match=rf"holds one dataset {said}, so no 'train'; save a DatasetDict"):
            dataset(str(tmp_path))
    hub.rows.split = "train"
    assert len(dataset(str(tmp_path))) == 1


def test_what_is_missing_is_named(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        DataError, match=r"^me/images \(train\) cannot be loaded: FileNotFoundError: no dataset me/images; "
    ):
        dataset()
    hub.rows = FakeRows({"image": stored(png()), "caption": ["a"]})
    with pytest.raises(DataError, match=r"has no column text; there: image, caption"):
        dataset()
    hub.rows = FakeRows({"image": stored(png()), "text": [""]})
    with pytest.raises(
        DataError, match=r"no usable pair \(captions: column text; left out as bad: 1 \(no_caption 1\), first "
    ):
        dataset()
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"^Hugging Face datasets need the package datasets: pip install datasets$"):
        dataset()


def test_with_the_package_itself(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
        }
    )
    columns = {"image": stored(png(), png("blue")), "text": ["one", ""], "label": [1, 0]}
    rows = datasets.Dataset.from_dict(columns, features=features)
    datasets.DatasetDict({"train": rows}).save_to_disk(tmp_path / "saved")
    rows.to_parquet(tmp_path / "files" / "train.parquet")
    rows.save_to_disk(tmp_path / "alone")
    with pytest.raises(DataError, match=r"alone holds one dataset without a split, so no 'train'; save a DatasetDict"):
        dataset(str(tmp_path / "alone"))
    for folder in ("saved", "files"):
        data = dataset(str(tmp_path / folder), label_columns=["label"])
        assert tuple(data.describe(0)) == (["one"], {"label": "dog"}, "0")
        assert data[0].image.getpixel((0, 0)) == (255, 0, 0)
        assert dict(data.bad.counts) == {"no_caption": 1}
