import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from limoe.data.shards.tar_members import TarMembers
from limoe.errors import DataError
from tests.helpers.shards import tar_bytes as tar_of

FILES = {"a.txt": b"first", "b.png": bytes(range(256)) * 5, "empty.txt": b"", "c.json": b"{}"}


def tar_bytes(files: dict[str, bytes], kind: int = tarfile.USTAR_FORMAT) -> bytes:
    return tar_of(list(files.items()), kind)


def walked(path: Path) -> tuple[Any, ...]:
    """The walk and the members it found."""
    with path.open("rb") as file:
        members = TarMembers(file, size=path.stat().st_size, path=path)
        found = list(members)
    return members, found


def contents(path: Path) -> dict[str, bytes]:
    data = path.read_bytes()
    members, found = walked(path)
    assert members.damage is None
    return {m.name: data[m.offset : m.offset + m.size] for m in found}


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return tmp_path / "shard.tar"


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_found_in_every_format(shard: Path, kind: int) -> None:
    shard.write_bytes(tar_bytes(FILES, kind))
    assert contents(shard) == FILES


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names(shard: Path, kind: int) -> None:
    files = {"x" * 300 + ".txt": b"1", "short.txt": b"2", "图片-é.txt": b"3"}
    shard.write_bytes(tar_bytes(files, kind))
    assert contents(shard) == files


def test_ustar_prefix(shard: Path) -> None:
    files = {"folder/" * 20 + "name.txt": b"1"}  # 148 characters: split in prefix and name
    shard.write_bytes(tar_bytes(files))
    assert contents(shard) == files


def test_pax_size_and_global_records(shard: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "all"}) as tar:
        info = tarfile.TarInfo("a.txt")
        info.size = 700
        info.pax_headers = {"size": "700"}
        tar.addfile(info, io.BytesIO(b"z" * 700))
        tar.addfile(tarfile.TarInfo("b.txt"))
    shard.write_bytes(buffer.getvalue())
    assert contents(shard) == {"a.txt": b"z" * 700, "b.txt": b""}


def test_binary_size_field(shard: Path) -> None:
    data = bytearray(tar_bytes({"a.txt": b"12345"}))
    data[124:136] = b"\x80" + (5).to_bytes(11, "big")
    data[148:156] = b"%06o\0 " % (sum(data[:512]) - sum(data[148:156]) + 8 * 32)
    shard.write_bytes(data)
    assert contents(shard) == {"a.txt": b"12345"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_folders_and_devices_are_passed_over(shard: Path, kind: bytes) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        special = tarfile.TarInfo("special.txt")
        special.type, special.linkname = kind, "/etc/hostname"
        tar.addfile(special)
        info = tarfile.TarInfo("a.txt")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"1"))
    shard.write_bytes(buffer.getvalue())
    assert contents(shard) == {"a.txt": b"1"}


def test_missing_end_blocks_lose_nothing_but_are_told(shard: Path) -> None:
    # Headers and data: 2 + 4 + 1 + 2 blocks of 512 bytes.
    shard.write_bytes(tar_bytes(FILES))
    assert walked(shard)[0].has_end
    shard.write_bytes(tar_bytes(FILES)[: 9 * 512])
    assert contents(shard) == FILES
    assert not walked(shard)[0].has_end


def test_a_second_archive_behind_the_first_is_no_silent_loss(shard: Path) -> None:
    # 9 blocks of members, then the end mark in block 9; what `cat a.tar b.tar` makes.
    shard.write_bytes(2 * tar_bytes(FILES))
    members, found = walked(shard)
    assert [member.name for member in found] == list(FILES)
    assert str(members.damage) == "damaged at byte 5,120: there is data after the end mark"


@pytest.mark.parametrize(
    ("data", "damage"),
    [
        (b"", "damaged at byte 0: the file is empty"),
        (b"hello", "damaged at byte 0: the file ends inside a header (5 of 512 bytes)"),
        (
            tar_bytes({"a.txt": b"1"})[:600],
            "damaged at byte 0: its member needs 1 bytes, the file ends 424 before its end",
        ),
    ],
)
def test_files_without_a_whole_member(shard: Path, data: bytes, damage: str) -> None:
    shard.write_bytes(data)
    members, found = walked(shard)
    assert (str(members.damage), found) == (damage, [])


def test_what_was_never_a_tar_is_refused(shard: Path) -> None:
    shard.write_bytes(b"hello" * 200)
    with pytest.raises(DataError, match=r"shard\.tar is not a tar file \(no tar header at byte 0\)"):
        walked(shard)


def test_a_cut_in_the_data_names_the_member_and_what_is_missing(shard: Path) -> None:
    # b.png: header at byte 1,024, data to 1,536 + 1,280 = 2,816, filled up to 3,072; cut 556 bytes earlier.
    shard.write_bytes(tar_bytes(FILES)[:2516])
    members, found = walked(shard)
    assert str(members.damage) == (
        "damaged at byte 1,024: its member needs 1,280 bytes, the file ends 556 before its end"
    )
    assert [member.name for member in found] == ["a.txt"]


@pytest.mark.parametrize("start", [0, 1024])
def test_a_wrong_checksum_is_no_silent_end(shard: Path, start: int) -> None:
    data = bytearray(tar_bytes(FILES))
    data[start] ^= 1  # first letter of a name
    shard.write_bytes(data)
    members, found = walked(shard)
    assert str(members.damage) == f"damaged at byte {start:,}: the checksum of the header is wrong"
    assert [member.name for member in found] == ["a.txt"][: start // 1024]


def test_a_name_that_is_too_long_to_be_one(shard: Path) -> None:
    data = bytearray(tar_bytes({"x" * 300: b""}, tarfile.GNU_FORMAT) + bytes(1 << 21))
    data[124:136] = b"%011o\0" % ((1 << 20) + 1)
    data[148:156] = b"%06o\0 " % (sum(data[:512]) - sum(data[148:156]) + 8 * 32)
    shard.write_bytes(data)
    assert str(walked(shard)[0].damage) == "damaged at byte 512: a member name of 1,048,577 bytes"


def test_cuts_anywhere_give_the_members_before(shard: Path) -> None:
    whole = tar_bytes(FILES)
    for cut in np.random.default_rng(0).integers(1, 9 * 512, 200):
        shard.write_bytes(whole[:cut])
        members, found = walked(shard)
        assert not members.has_end
        assert (members.damage is None) == (cut in (1024, 3072, 3584))  # the borders between members
        assert [member.name for member in found] == list(FILES)[: len(found)]


def test_a_file_that_shrinks_while_it_is_read_is_damaged(shard: Path) -> None:
    """b.png: header at byte 1,024, data from 1,536, filled up to 3,072, where the next header is missing."""
    data = tar_bytes(FILES)
    members = TarMembers(io.BufferedReader(io.BytesIO(data[:2000])), size=len(data), path=shard)
    assert [member.name for member in members] == ["a.txt", "b.png"]
    assert str(members.damage) == "damaged at byte 3,072: the file ends inside a header (0 of 512 bytes)"
