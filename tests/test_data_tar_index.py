import io
import tarfile

import numpy as np
import pytest

from limoe.data.tar_index import tar_members
from limoe.errors import DataError

FILES = {"a.txt": b"first", "b.png": bytes(range(256)) * 5, "empty.txt": b"", "c.json": b"{}"}


def tar_bytes(files, kind=tarfile.USTAR_FORMAT):
    """Written by the standard library: the oracle for what we read."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def contents(path):
    data = path.read_bytes()
    return {m.name: data[m.offset : m.offset + m.size] for m in tar_members(path)}


@pytest.fixture
def shard(tmp_path):
    return tmp_path / "shard.tar"


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_found_in_every_format(shard, kind):
    shard.write_bytes(tar_bytes(FILES, kind))
    assert contents(shard) == FILES


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names(shard, kind):
    files = {"x" * 300 + ".txt": b"1", "short.txt": b"2", "图片-é.txt": b"3"}
    shard.write_bytes(tar_bytes(files, kind))
    assert contents(shard) == files


def test_ustar_prefix(shard):
    files = {"folder/" * 20 + "name.txt": b"1"}  # 148 characters: split in prefix and name
    shard.write_bytes(tar_bytes(files))
    assert contents(shard) == files


def test_pax_size_and_global_records(shard):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "all"}) as tar:
        info = tarfile.TarInfo("a.txt")
        info.size = 700
        info.pax_headers = {"size": "700"}
        tar.addfile(info, io.BytesIO(b"z" * 700))
        tar.addfile(tarfile.TarInfo("b.txt"))
    shard.write_bytes(buffer.getvalue())
    assert contents(shard) == {"a.txt": b"z" * 700, "b.txt": b""}


def test_binary_size_field(shard):
    data = bytearray(tar_bytes({"a.txt": b"12345"}))
    data[124:136] = b"\x80" + (5).to_bytes(11, "big")
    data[148:156] = b"%06o\0 " % (sum(data[:512]) - sum(data[148:156]) + 8 * 32)
    shard.write_bytes(data)
    assert contents(shard) == {"a.txt": b"12345"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_folders_and_devices_are_passed_over(shard, kind):
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


def test_missing_end_blocks_lose_nothing_but_are_told(shard, caplog):
    # Headers and data: 2 + 4 + 1 + 2 blocks of 512 bytes.
    shard.write_bytes(tar_bytes(FILES))
    assert contents(shard) == FILES
    assert not caplog.messages
    shard.write_bytes(tar_bytes(FILES)[: 9 * 512])
    assert contents(shard) == FILES
    assert caplog.messages == [f"{shard} has no end mark: it may have been cut between two members"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"shard\.tar is empty \(0 bytes\)"),
        (b"\x1f\x8b" + bytes(600), r"shard\.tar is compressed with gzip \(byte 0\)"),
        (b"hello" * 200, r"shard\.tar is not a tar file"),
        (b"hello", r"damaged at byte 0: the file ends inside a header \(5 of 512 bytes\)"),
    ],
)
def test_foreign_files_are_named(shard, data, message):
    shard.write_bytes(data)
    with pytest.raises(DataError, match=message):
        list(tar_members(shard))


def test_a_cut_in_the_data_names_the_member_and_what_is_missing(shard):
    # b.png: header at byte 1,024, data to 1,536 + 1,280 = 2,816, filled up to 3,072; cut 556 bytes earlier.
    shard.write_bytes(tar_bytes(FILES)[:2516])
    with pytest.raises(DataError, match=r"byte 1,024: its member needs 1,280 bytes, the file ends 556 before its end"):
        list(tar_members(shard))


def test_a_wrong_checksum_in_the_middle_is_no_silent_end(shard):
    data = bytearray(tar_bytes(FILES))
    data[1024] ^= 1  # first letter of the second name
    shard.write_bytes(data)
    with pytest.raises(DataError, match="damaged at byte 1,024: the checksum of the header is wrong"):
        list(tar_members(shard))


def test_cuts_anywhere_give_the_members_before_or_a_data_error(shard):
    whole = tar_bytes(FILES)
    for cut in np.random.default_rng(0).integers(1, 9 * 512, 200):
        shard.write_bytes(whole[:cut])
        found = []
        try:
            for member in tar_members(shard):
                found.append(member.name)
            assert cut in (1024, 3072, 3584)  # the borders between members
        except DataError as error:
            assert "shard.tar" in str(error)
        assert found == list(FILES)[: len(found)]


def test_damaged_headers_raise_nothing_but_data_errors(shard):
    rng = np.random.default_rng(1)
    whole = tar_bytes({"x" * 120 + ".txt": b"1", "a.txt": b"22"}, tarfile.PAX_FORMAT)
    refused = 0
    for _ in range(500):
        data = bytearray(whole)
        data[rng.integers(0, len(data))] = rng.integers(0, 256)
        shard.write_bytes(data)
        try:
            list(tar_members(shard))
        except DataError:
            refused += 1
    assert refused > 50


def test_a_missing_file_is_named(shard):
    with pytest.raises(DataError, match=r"shard\.tar cannot be read"):
        list(tar_members(shard))
