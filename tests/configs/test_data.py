"""Every option of the group `data` that reads files is built, and gives batches, from a few pairs of its own kind."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from limoe.config.objects import instantiate
from tests.helpers.commands import limoe
from tests.helpers.configs import composed
from tests.helpers.numbered_shards import png, sample, write_shards, write_tar
from tests.helpers.paths import CONFIGS

SMALL = ["data.batch_size=4", "model.image_size=16", "tokenizer.vocab_size=300"]


def shards(folder: Path, *, splits: tuple[str, str, str]) -> None:
    (folder / "shards").mkdir(parents=True)
    for split in splits:
        for shard in range(2):
            files = [member for n in range(8 * shard, 8 * shard + 8) for member in sample(n)]
            write_tar(folder / "shards" / f"{split}-{shard}.tar", files)


def icons(folder: Path) -> None:
    folder.mkdir()
    rows = [{"key": f"k{n}", "image": png(n), "captions": [f"n {n}"], "label": None if n else "a"} for n in range(8)]
    for split in ("train", "val"):
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folders that the options expect below LIMOE_DATA_DIR."""
    monkeypatch.setenv("LIMOE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("LIMOE_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("emoji-captions", "caltech-photos", "fashion-mnist-900"):
        shards(tmp_path / name, splits=("train", "val", "test"))
    icons(tmp_path / "icon-captions")
    images = tmp_path / "images"
    images.mkdir()
    for number in range(8):
        (images / f"{number}.png").write_bytes(png(number))
        (images / f"{number}.txt").write_text(f"number {number}")
    lines = [json.dumps({"image": f"images/{number}.png", "caption": f"n {number}"}) for number in range(8)]
    (tmp_path / "table.jsonl").write_text("\n".join(lines))
    return tmp_path


OPTIONS = {
    "emoji": [],
    "icons": [],
    "caltech": [],
    "fashion": ["data.batch_size=4"],
    "table": ["data.train_path={root}/table.jsonl", "data.val_path={root}/table.jsonl"],
    "image_folder": ["data.train_root={root}/images", "data.val_root={root}/images"],
    "mixture": [],
    "streaming": ["data.epoch_pairs=8"],
}
NEED_NO_FILES = {"synthetic", "emblems"}
NEED_A_PACKAGE = {"hugging_face"}  # see tests/data/sources/test_hugging_face.py


def test_what_options_share_is_no_option(tmp_path: Path) -> None:
    """`configs/data/_pairs.yaml`; options of a project of one's own are listed beside those of limoe."""
    (tmp_path / "configs" / "data").mkdir(parents=True)
    for name in ("mine", "_mine"):
        (tmp_path / "configs" / "data" / f"{name}.yaml").write_text("defaults: [_pairs, _self_]\n")
    listed = limoe("train", "--help", cwd=tmp_path).stdout.splitlines()
    options = sorted(path.stem for path in (CONFIGS / "data").glob("*.yaml") if path.stem != "_pairs")
    assert f"data: {', '.join(sorted([*options, 'mine']))}" in listed
    assert "optimizer: adafactor, adamw, lion" in listed
    assert not [line for line in listed if line.startswith("hydra")]
    error = limoe("train", "data=pairs", cwd=tmp_path, code=2).stderr
    assert error.startswith("limoe: error: data has no option 'pairs'") and "synthetic" in error
    assert "_pairs" not in error and "_mine" not in error


def test_no_option_is_forgotten() -> None:
    names = {path.stem for path in (CONFIGS / "data").glob("[!_]*.yaml")}
    assert names == set(OPTIONS) | NEED_NO_FILES | NEED_A_PACKAGE


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_gives_batches(name: str, root: Path) -> None:
    cfg = composed(f"data={name}", *SMALL, *(word.format(root=root) for word in OPTIONS[name]))
    data = instantiate(cfg.data.module)
    data.setup("fit")
    for loader in (data.train_dataloader(), data.val_dataloader()):
        batch = next(iter(loader))
        assert batch.images.shape == (4, 3, 16, 16)
        assert batch.text_mask.any(1).all()
        assert batch.bad == ()


def test_the_mixture_repeats_the_smaller_source(root: Path) -> None:
    mixed = instantiate(composed("data=mixture", *SMALL).data.module).train
    # 16 emoji and 8 icons at equal weights: 16 places each
    assert mixed.counts == {"emoji": 16, "icons": 16}
    assert len(mixed) == 32


def test_a_streamed_run_is_evaluated_without_its_shards(root: Path) -> None:
    """As `limoe eval` does it: no training data, no validation data."""
    module = composed("data=streaming", *SMALL).data.module
    module.train, module.val = None, None
    assert instantiate(module).stream is None


def test_numbered_shards_can_be_streamed(root: Path) -> None:
    (root / "more").mkdir()
    write_shards(root / "more", shards=3, each=4)
    place = f'data.shards="{root}/more/train-{{0..2}}.tar"'  # Hydra wants braces in quotes
    data = instantiate(composed("data=streaming", *SMALL, place, "data.epoch_pairs=12").data.module)
    assert len(list(data.train_dataloader())) == 3
