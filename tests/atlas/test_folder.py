"""An atlas never takes the place of one with other settings."""

import json
from pathlib import Path

import pytest

from limoe.atlas.settings import folder_for, write
from limoe.errors import ConfigError

ONE, OTHER = {"pairs": 1}, {"pairs": 2}


def made(run: Path, settings: dict, *, page: str = "page", out: Path | None = None) -> Path:
    return write(folder_for(run, settings=settings, out=out), page=page, record={"settings": settings})


def test_the_first_lies_in_atlas_and_others_beside_it(tmp_path: Path) -> None:
    first, other = made(tmp_path, ONE), made(tmp_path, OTHER)
    assert first == tmp_path / "atlas" / "index.html"
    assert other.parent.parent == tmp_path and other.parent.name.startswith("atlas_") and other != first
    assert made(tmp_path, OTHER, page="new") == other and other.read_text() == "new"
    assert made(tmp_path, ONE, page="newer") == first and first.read_text() == "newer"
    assert json.loads((first.parent / "atlas.json").read_text()) == {"settings": ONE}
    assert sorted(p.name for p in first.parent.iterdir()) == ["atlas.json", "index.html"]


def test_a_broken_or_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "atlas").mkdir()
    (tmp_path / "atlas" / "atlas.json").write_text("{")
    assert made(tmp_path, ONE).parent.name.startswith("atlas_")
    assert (tmp_path / "atlas" / "atlas.json").read_text() == "{"


def test_out_must_be_free_or_the_same(tmp_path: Path) -> None:
    out = tmp_path / "elsewhere"
    assert made(tmp_path, ONE, out=out) == out / "index.html"
    made(tmp_path, ONE, out=out)
    with pytest.raises(ConfigError, match="holds other files than an atlas of these settings"):
        made(tmp_path, OTHER, out=out)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="holds other files"):
        made(tmp_path, ONE, out=tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert made(tmp_path, ONE, out=tmp_path / "empty").is_file()


def test_a_page_of_strange_captions_can_be_written(tmp_path: Path) -> None:
    assert made(tmp_path, ONE, page="a\ud800b").read_text() == "a?b"
