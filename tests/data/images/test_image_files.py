from pathlib import Path

import pytest

from limoe.data.bad_samples import BadContent
from limoe.data.images.image_files import inside, read_image


@pytest.mark.parametrize(
    "name", ["../a.png", "a/../../b.png", "/a.png", "..\\a.png", "C:\\a.png", "a\0.png", "\\a.png"]
)
def test_names_that_lead_out_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadContent, match="is outside") as error:
        inside(tmp_path, name)
    assert error.value.kind == "outside"


@pytest.mark.parametrize("name", ["a.png", "a/b.png", "./a.png", "a..b.png", "..a.png"])
def test_names_inside_are_fine(name: str, tmp_path: Path) -> None:
    assert inside(tmp_path, name) == name


def test_an_absolute_name_below_the_folder_is_inside(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "other").symlink_to(tmp_path / "root")
    for written, root in (("root", "root"), ("other", "root"), ("root", "other")):
        assert inside(tmp_path / root, str(tmp_path / written / "sub" / "a.png")) == "sub/a.png"
    for name in (tmp_path / "a.png", tmp_path / "root" / ".." / "a.png", tmp_path / "root2" / "a.png"):
        with pytest.raises(BadContent, match="is outside"):
            inside(tmp_path / "root", str(name))


def test_links_are_followed_inside_only(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(b"secret")
    (root / "sub" / "a.png").write_bytes(b"a")
    (root / "inside.png").symlink_to(root / "sub" / "a.png")
    (root / "outside.png").symlink_to(tmp_path / "secret.png")
    (root / "up").symlink_to(tmp_path, target_is_directory=True)
    assert read_image(root, "sub/a.png") == read_image(root, "inside.png") == b"a"
    for name in ("outside.png", "up/secret.png", "../secret.png", str(tmp_path / "secret.png")):
        with pytest.raises(BadContent, match="is outside"):
            read_image(root, name)
        assert read_image(root, name, allow_outside=True) == b"secret"


def test_files_that_cannot_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "large.png").write_bytes(b"12345")
    monkeypatch.setattr("limoe.data.images.image_files.MAX_BYTES", 4)
    for name, kind in (
        ("none.png", "missing_file"),
        (".", "missing_file"),
        ("large.png", "too_large"),
        ("n" * 300, "missing_file"),
    ):
        with pytest.raises(BadContent) as error:
            read_image(tmp_path, name)
        assert error.value.kind == kind
