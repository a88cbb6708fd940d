"""Every evaluation task composes with any data, builds from its files, and is what its header says."""

import io
import json
import re
import tarfile
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from PIL import Image

from limoe.build import build_tasks
from limoe.config.objects import plain
from limoe.data.tasks.kinds import FewShotTask, LinearProbeTask, RetrievalTask
from limoe.evaluation.tasks import task_chance
from tests.helpers.configs import composed
from tests.helpers.paths import CONFIGS

FILES = {path.stem: path for path in sorted((CONFIGS / "eval").glob("*.yaml"))}
SETS = {name for name, path in FILES.items() if "defaults:" in path.read_text() or name == "none"}
TASKS = sorted(FILES.keys() - SETS)
ELSEWHERE = {"coco_retrieval", "coco_shards", "imagenet_zero_shot", "imagenet_shards"}  # data that users bring
HEADER = re.compile(r"([\d,]+) (?:test )?(?:images|scenes)")


@pytest.mark.parametrize("data", ["synthetic", "emoji"])
def test_a_file_holds_the_task_of_its_name_and_any_data_will_do(data: str) -> None:
    """All files at once: two with the same key would leave fewer tasks than files."""
    cfg = composed(f"eval=[{','.join(TASKS)}]", f"data={data}")
    assert list(plain(cfg)["eval"]) == TASKS


def test_a_file_can_be_chosen_alone() -> None:
    assert list(composed(f"eval=[{TASKS[0]}]").eval) == TASKS[:1]


@pytest.mark.parametrize("name", sorted(SETS - {"none"}))
def test_a_set_holds_tasks(name: str) -> None:
    assert set(composed(f"eval={name}").eval) <= set(TASKS)


@pytest.mark.parametrize("name", sorted(set(TASKS) - ELSEWHERE))
def test_a_task_has_the_images_and_the_chance_of_its_header(
    name: str, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMOE_DATA_DIR", str(shared / "data"))
    task = build_tasks(composed(f"eval=[{name}]"))[name]
    header = " ".join(line[2:] for line in FILES[name].read_text().splitlines() if line.startswith("# "))
    images = task.test.images if isinstance(task, FewShotTask | LinearProbeTask) else task.images
    assert max(int(count.replace(",", "")) for count in HEADER.findall(header)) == len(images)
    if not isinstance(task, RetrievalTask):
        assert f"{len(task.class_names):,} " in header
    chance = re.search(r"chance(?: of [\w@ -]+)? (?:about )?([\d.]+) %", header)
    values = [100 * value for value in task_chance(task).values()]
    assert chance is not None and min(abs(value - float(chance[1])) for value in values) < 0.05


@pytest.mark.parametrize(
    ("data", "root"),
    [
        ({"dataset": "emoji-captions", "root": "/mine"}, "/mine"),
        ({"dataset": "emoji-captions", "root": None}, "/all/emoji-captions"),
        ({"dataset": "icon-captions", "root": "/mine"}, "/all/emoji-captions"),
        ({"root": "/mine"}, "/all/emoji-captions"),
    ],
)
def test_the_runs_own_dataset_lies_in_data_root_and_others_in_the_folder_of_all(
    data: dict, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMOE_DATA_DIR", "/all")
    cfg = OmegaConf.create({"data": data, "path": "${dataset_root:emoji-captions}"})
    assert cfg.path == root
    monkeypatch.delenv("LIMOE_DATA_DIR")
    assert OmegaConf.create({"path": "${dataset_root:x}"}).path == "data/x"


def test_emoji_tasks_follow_the_data_of_the_run() -> None:
    cfg = composed("data=emoji", "data.root=/mine")
    assert cfg.eval.emoji_val_identity.images.root == "/mine"
    assert cfg.eval.emoji_val_identity.path == "/mine/classes.json"


def image_bytes() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (200, 30, 30)).save(buffer, format="JPEG")
    return buffer.getvalue()


def write_shard(path: Path, samples: dict[str, dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, fields in samples.items():
            for suffix, content in (("jpg", image_bytes()), ("json", json.dumps(fields).encode())):
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as a user lays it out for ImageNet and COCO, with two classes and three images."""
    monkeypatch.setenv("LIMOE_DATA_DIR", str(tmp_path))
    prompts = {"classes": ["Tench, Tinca", "goldfish"], "templates_simple_7": ["itap of a {}."]}
    (tmp_path / "zeroshot-prompts").mkdir()
    (tmp_path / "zeroshot-prompts" / "imagenet1k.json").write_text(json.dumps(prompts))
    for name in ("imagenet/val/n01440764/a.JPEG", "imagenet/val/n01443537/b.JPEG", "coco/val2014/COCO_val2014_7.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_bytes())
    image = {"filename": "COCO_val2014_7.jpg", "split": "test", "sentences": [{"raw": "red"}, {"raw": "a red square"}]}
    (tmp_path / "coco" / "dataset_coco.json").write_text(json.dumps({"images": [image]}))
    return tmp_path


def test_imagenet_from_a_folder_and_from_shards(brought: Path) -> None:
    labels = {"x": "n01443537", "y": "n01440764"}
    fields = {key: {"label": label, "caption": "fish"} for key, label in labels.items()}
    write_shard(brought / "imagenet" / "val-0000.tar", fields)
    tasks = build_tasks(composed("eval=[imagenet_zero_shot,imagenet_shards]"))
    assert {name: list(task.labels) for name, task in tasks.items()} == {
        "imagenet_zero_shot": [0, 1],
        "imagenet_shards": [1, 0],
    }
    for task in tasks.values():
        assert (list(task.class_names), list(task.templates)) == (["tench", "goldfish"], ["itap of a {}", "{}"])


def test_coco_from_karpathys_list_and_from_shards(brought: Path) -> None:
    write_shard(brought / "coco" / "test-0000.tar", {"x": {"captions": ["red", "a red square"]}})
    tasks = build_tasks(composed("eval=[coco_retrieval,coco_shards]"))
    for task in tasks.values():
        assert (len(task.images), list(task.texts)) == (1, ["red", "a red square"])
        assert list(task.positives) == [(0, 0), (0, 1)]
