import io
import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from limoe.data.bad_samples import BadSampleError
from limoe.data.sources.table import Table
from limoe.errors import DataError
from tests.helpers.tables import table


def png(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(buffer, "PNG")
    return buffer.getvalue()


def parquet(path: Path, rows: list[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def kinds(source: Table) -> dict[str, int]:
    return dict(source.bad.counts)


def colours(source: Table) -> list[Any]:
    return [source[i].image.getpixel((0, 0)) for i in range(len(source))]


RED, BLUE = (255, 0, 0), (0, 0, 255)


def test_images_are_bytes_structs_or_paths(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "blue.png").write_bytes(png("blue"))
    plain = parquet(tmp_path / "plain.parquet", [{"image": png(), "caption": "a"}])
    struct = parquet(
        tmp_path / "struct.parquet",
        [
            {"image": {"bytes": png(), "path": "nowhere.png"}, "caption": "a"},
            {"image": {"bytes": None, "path": "images/blue.png"}, "caption": "b"},
        ],
    )
    names = parquet(tmp_path / "names.parquet", [{"image": "blue.png", "caption": "a"}])
    assert colours(table(plain)) == [RED]
    assert colours(table(struct)) == [RED, BLUE]
    assert colours(table(names, image_root=str(tmp_path / "images"))) == [BLUE]


def test_captions_labels_and_keys(tmp_path: Path) -> None:
    rows = [
        {"image": png(), "caption": [" one ", "", "two"], "id": 7, "group": "g", "number": 3},
        {"image": png(), "caption": ["three"], "id": 8, "group": None, "number": 4},
    ]
    data = table(parquet(tmp_path / "t.parquet", rows), key_column="id", label_columns=["group", "number"])
    assert tuple(data.describe(0)) == (["one", "two"], {"group": "g", "number": "3"}, "7")
    assert tuple(data.describe(1)) == (["three"], {"number": "4"}, "8")
    assert data[1][1:] == tuple(data.describe(1))
    assert list(data.captions()) == ["one", "two", "three"]
    with pytest.raises(IndexError):
        data.describe(2)


def test_files_come_in_order_and_rows_without_key_are_named_by_file_and_number(tmp_path: Path) -> None:
    for folder, colour in (("b", "blue"), ("a", "red")):
        parquet(tmp_path / folder / "t.parquet", [{"image": png(colour), "caption": folder}])
    data = table(str(tmp_path / "*" / "*.parquet"))
    assert [data.describe(i).key for i in range(2)] == ["a/t.parquet:0", "b/t.parquet:0"]
    assert colours(data) == [RED, BLUE]
    chosen = table([str(tmp_path / "b" / "t.parquet"), str(tmp_path / "a" / "t.parquet")])
    assert colours(chosen) == [BLUE, RED]


def test_paths_of_several_tables_belong_to_their_own_folders(tmp_path: Path) -> None:
    for folder, colour in (("a", "red"), ("b", "blue")):
        parquet(tmp_path / folder / "t.parquet", [{"image": "x.png", "caption": folder}])
        (tmp_path / folder / "x.png").write_bytes(png(colour))
    assert colours(table(str(tmp_path / "*" / "t.parquet"))) == [RED, BLUE]


def test_where_chooses_rows(tmp_path: Path) -> None:
    rows = [
        {"image": png(), "caption": c, "split": s, "n": n} for c, s, n in [("a", "x", 1), ("b", "y", 1), ("c", "z", 2)]
    ]
    path = parquet(tmp_path / "t.parquet", rows)
    assert list(table(path, where={"split": "y"}).captions()) == ["b"]
    assert list(table(path, where={"split": ["x", "z"], "n": 1}).captions()) == ["a"]
    assert kinds(table(path, where={"n": 2})) == {}
    with pytest.raises(DataError, match=r"no usable pair \(where: \{'split': \['w'\]\}; left out as bad: none\)"):
        table(path, where={"split": "w"})


def test_bad_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [
        {"image": png(), "caption": "good", "key": "a"},
        {"image": None, "caption": "x", "key": "b"},
        {"image": b"", "caption": "x", "key": "c"},
        {"image": png(), "caption": " ", "key": "d"},
        {"image": png(), "caption": None, "key": "e"},
        {"image": png(), "caption": "x", "key": ""},
        {"image": png("blue"), "caption": "again", "key": "a"},
        {"image": png("blue"), "caption": "last", "key": "f"},
    ]
    path = parquet(tmp_path / "t.parquet", rows)
    first, again = (table(path, key_column="key") for _ in range(2))
    for data in (first, again):  # read from the parquet file, then from its copy
        assert list(data.captions()) == ["good", "last"]
        assert colours(data) == [RED, BLUE]
        assert kinds(data) == {"no_image": 2, "no_caption": 2, "no_key": 1, "duplicate_key": 1}
    assert first.bad == again.bad
    assert [sample.key for sample in first.bad.first] == ["b", "c", "d", "e", "t.parquet:5", "a"]
    assert {sample.place for sample in first.bad.first} == {path}


def test_a_key_of_a_bad_row_is_still_free(tmp_path: Path) -> None:
    rows = [{"image": png(), "caption": caption, "key": "a"} for caption in (None, "good")]
    data = table(parquet(tmp_path / "t.parquet", rows), key_column="key")
    assert (list(data.captions()), kinds(data)) == (["good"], {"no_caption": 1})


def test_keys_are_unique_among_all_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        parquet(tmp_path / f"{name}.parquet", [{"image": png(), "caption": name, "key": "same"}])
    data = table(str(tmp_path / "*.parquet"), key_column="key")
    assert list(data.captions()) == ["a"]
    assert kinds(data) == {"duplicate_key": 1}


def test_an_unreadable_image_is_named_when_it_is_read(tmp_path: Path) -> None:
    data = table(parquet(tmp_path / "t.parquet", [{"image": b"no image", "caption": "a"}]))
    with pytest.raises(BadSampleError, match=r"t\.parquet: 't\.parquet:0': its image \(8 bytes\)") as error:
        data[0]
    assert error.value.sample.kind == "unknown_format"


def test_paths_stay_inside_the_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png())
    inside = tmp_path / "data"
    inside.mkdir()
    (inside / "link.png").symlink_to(tmp_path / "secret.png")
    names = ["../secret.png", str(tmp_path / "secret.png"), "link.png", "missing.png", "."]
    lines = [json.dumps({"image": name, "caption": "x"}) for name in names]
    path = inside / "t.jsonl"
    path.write_text("\n".join(lines))
    data = table(str(path))
    assert kinds(data) == {"outside": 2}
    for index, kind in enumerate(["outside", "missing_file", "missing_file"]):
        with pytest.raises(BadSampleError) as error:
            data[index]
        assert error.value.sample.kind == kind
    assert data.bad.first[0].reason == (
        "its image '../secret.png' is outside the folder of the images; "
        "only allow_outside of a table or a Hugging Face dataset permits that"
    )
    trusted = table(str(path), allow_outside=True)
    assert colours(table(str(path), allow_outside=True, where={"image": names[:3]})) == [RED] * 3
    assert len(trusted) == 5


def test_absolute_paths_below_the_folder_are_inside(tmp_path: Path) -> None:
    for folder, colour in (("a", "red"), ("b", "blue")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.png").write_bytes(png(colour))
        (tmp_path / folder / "t.csv").write_text(f"image,caption\n{tmp_path}/{folder}/x.png,{folder}\n")
    assert colours(table(str(tmp_path / "a" / "t.csv"))) == [RED]
    assert colours(table(str(tmp_path / "*" / "t.csv"))) == [RED, BLUE]
    assert colours(table(str(tmp_path / "*" / "t.csv"), allow_outside=True)) == [RED, BLUE]
    assert colours(table(str(tmp_path / "a" / "t.csv"), image_root=str(tmp_path))) == [RED]
    with pytest.raises(DataError, match=r"no usable pair .* 1 \(outside 1\), .*x\.png' is outside the folder of"):
        table(str(tmp_path / "a" / "t.csv"), image_root=str(tmp_path / "b"))


def test_json_lines_are_read_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png())
    path = tmp_path / "t.jsonl"
    lines = [
        b'\xef\xbb\xbf{"image": "x.png", "caption": "a", "label": 3}\r',
        b"",
        b'{"image": "x.png", "capt',
        b"[1]",
        b'{"image": {"path": "x.png"}, "caption": ["b", "c"]}',
        b'{"image": "x.png", "caption": "\\ud800"}',
        b'{"image": 3, "caption": "x"}',
        b'{"image": "x.png", "caption": 3}',
    ]
    path.write_bytes(b"\n".join(lines))
    data = table(str(path), label_columns=["label"])
    assert [tuple(data.describe(i)) for i in range(2)] == [
        (["a"], {"label": "3"}, "t.jsonl:1"),
        (["b", "c"], {}, "t.jsonl:5"),
    ]
    assert colours(data) == [RED, RED]
    assert kinds(data) == {"bad_json": 3, "bad_text": 1, "no_image": 1}
    with pytest.raises(DataError, match=r"t\.jsonl has no column text; there: caption, image, label"):
        table(str(path), caption_column="text")


def test_a_csv_may_hold_what_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(
        b'image,caption\nx.png,"two\nlines"\nx.png,\xff\nx.png,"a"b\nx.png,' + b"x" * 140_000 + b"\nx.png,last\n"
    )
    data = table(str(path))
    assert list(data.captions()) == ["two\nlines", "last"]
    assert kinds(data) == {"bad_text": 1, "bad_row": 2}
    assert [data.describe(i).key for i in range(2)] == ["t.csv:3", "t.csv:7"]


def captions_of(path: Path, *lines: str) -> tuple[Any, ...]:
    """Captions and counts of a CSV of `image,caption`."""
    path.write_text("image,caption\n" + "\n".join(lines) + "\n")
    data = table(str(path))
    return list(data.captions()), kinds(data), [(sample.key, sample.reason) for sample in data.bad.first]


ROWS = [f"{n}.png,caption {n}" for n in range(6)]


def test_a_missing_quote_costs_its_own_row_only(tmp_path: Path) -> None:
    """It opens a cell that nothing closes, that is too long to be one, or that another quote closes too soon."""
    after = [f"caption {n}" for n in range(6)]
    captions, bad, first = captions_of(tmp_path / "end.csv", "x.png,before", 'x.png,"open', *ROWS)
    assert (captions, bad) == (["before", *after], {"bad_row": 1})
    assert first == [("end.csv:3", "line 3: unexpected end of data")]
    many = [f"{n}.png,{n:04}" for n in range(20_000)]  # 20,000 times 10 bytes and more: beyond the 131,072 of a cell
    captions, bad, first = captions_of(tmp_path / "long.csv", 'x.png,"open', *many)
    assert (len(captions), captions[:2], bad) == (20_000, ["0000", "0001"], {"bad_row": 1})
    captions, bad, first = captions_of(tmp_path / "soon.csv", 'x.png,"open', *ROWS, 'y.png,"a, b"')
    assert (captions, bad) == ([*after, "a, b"], {"bad_row": 1})
    captions, bad, first = captions_of(tmp_path / "more.csv", 'x.png,"open', *ROWS, 'y.png,an inch",z', "z.png,last")
    assert (captions, bad) == ([*after, "last"], {"bad_row": 2})
    assert first[1] == ("more.csv:9", "line 9 has 3 fields, the header 2")


def test_lines_that_a_row_may_have_swallowed_are_counted_one_by_one(tmp_path: Path) -> None:
    """A missing quote, and one too many at the end of a later line: by the rules of CSV that is one good row."""
    captions, bad, first = captions_of(tmp_path / "t.csv", 'x.png,"open', *ROWS, 'y.png,9 inch"', "z.png,last")
    assert (captions, bad) == (["last"], {"bad_row": 8})
    reason = "lines 2 to 9 are one row by their quotes, and rows of their own without: is a quote missing?"
    assert first == [(f"t.csv:{line}", reason) for line in range(2, 10)]


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limoe.data.sources.table_files.MAX_BYTES", 100)
    for name, line in (("t.csv", "x.png," + "y" * 100), ("t.jsonl", '{"image": "' + "y" * 100)):
        (tmp_path / name).write_text("image,caption\n" + line)
        with pytest.raises(DataError, match=rf"{name}: line 2 has more than 100 bytes; fix or remove it"):
            table(str(tmp_path / name))


def test_a_tsv_has_tabs(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("image\tcaption\nx.png\ta, b\n")
    assert list(table(str(tmp_path / "t.tsv")).captions()) == ["a, b"]


def test_a_text_of_a_parquet_that_is_not_utf8_costs_its_row_only(tmp_path: Path) -> None:
    texts = pa.array([b"good", b"\xff", b"last"]).view(pa.string())
    pq.write_table(pa.table({"image": [png()] * 3, "caption": texts}), tmp_path / "t.parquet")
    data = table(str(tmp_path / "t.parquet"))
    assert list(data.captions()) == ["good", "last"]
    assert kinds(data) == {"bad_text": 1}


def test_the_copy_follows_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIMOE_CACHE_DIR")
    path = tmp_path / "t.parquet"
    parquet(path, [{"image": png(), "caption": "old"}])
    first = table(str(path))
    written = first.copy.stat().st_mtime_ns
    assert first.copy.parent == tmp_path
    assert table(str(path)).copy.stat().st_mtime_ns == written
    parquet(path, [{"image": png(), "caption": "another"}, {"image": png("blue"), "caption": "new"}])
    assert list(table(str(path)).captions()) == ["another", "new"]
    assert list(first.captions()) == ["old"]  # whoever reads the old copy keeps it


def test_a_broken_copy_is_written_again_and_settings_have_their_own(tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", [{"image": png(), "caption": "a", "other": "b"}])
    first = table(path, cache_dir=str(tmp_path / "cache"))
    assert first.copy.parent == tmp_path / "cache"
    first.copy.write_bytes(first.copy.read_bytes()[:-20])
    assert list(table(path, cache_dir=str(tmp_path / "cache")).captions()) == ["a"]
    other = table(path, cache_dir=str(tmp_path / "cache"), caption_column="other")
    assert list(other.captions()) == ["b"]
    assert other.copy != first.copy
    assert sorted(p.suffix for p in (tmp_path / "cache").iterdir()) == [".arrow", ".arrow"]


def test_a_pickled_table_is_small_and_reads_on_its_own(tmp_path: Path) -> None:
    data = table(
        parquet(tmp_path / "t.parquet", [{"image": bytes(100_000), "caption": "a"}, {"image": png(), "caption": "b"}])
    )
    pickled = pickle.dumps(data)
    assert len(pickled) < 10_000
    copy = pickle.loads(pickled)
    assert copy.describe(1) == data.describe(1)
    assert copy[1].image.tobytes() == data[1].image.tobytes()


def test_hopeless_tables_are_named(tmp_path: Path) -> None:
    def refused(name: Any, content: Any, **settings: Any) -> Any:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError) as error:
            table(str(tmp_path / name), **settings)
        assert name in str(error.value) and "\n" not in str(error.value)
        return str(error.value)

    assert "is no table by its name; it must end with one of .parquet, .csv, .tsv, .jsonl" in refused("t.txt", b"x")
    assert "is empty; a table has at least a header, JSON lines one object" in refused("t.jsonl", b"")
    assert "the columns of its header must differ, got image, caption, image" in refused(
        "t.csv", b"image,caption,image\n"
    )
    assert "has no column caption; there: image, text" in refused("u.csv", b"image,text\n1,2\n")
    with pytest.raises(DataError, match=r"no table .*nothing-\*\.csv; set its path, or LIMOE_DATA_DIR"):
        table(str(tmp_path / "nothing-*.csv"))
    with pytest.raises(ValueError, match="must be at least one file, each once"):
        table([str(tmp_path / "t.csv")] * 2)
    assert list(tmp_path.glob("*.arrow")) == []


@pytest.mark.parametrize(
    ("column", "values", "rule"),
    [
        ("image", [1], r"\(no_image 1\), .* must be bytes, a path, or a struct of bytes and path, got 1"),
        ("caption", [1], r"\(bad_json 1\), .*`captions` must be a list of texts and `caption` a text, got \[1\]"),
        ("caption", [[1]], r"\(bad_json 1\), .*`captions` must be a list of texts and `caption` a text, got \[1\]"),
        ("label", [[1]], r"\(bad_row 1\), .*a cell must hold a text or a number, got \[1\]"),
    ],
)
def test_columns_of_the_wrong_type_are_named(
    tmp_path: Path, column: str, values: list[int | list[int]], rule: str
) -> None:
    good = {"image": [png()], "caption": ["a"], "label": ["x"]}
    pq.write_table(pa.table(good | {column: values}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=rf"t\.parquet: no usable pair .*left out as bad: 1 {rule}\)$"):
        table(str(tmp_path / "t.parquet"), label_columns=["label"])


EXPECTED_BAD = {  # of the files that can be read
    "good.parquet": {},
    "zero_rows.parquet": {},
    "nulls.parquet": {"no_caption": 2, "no_image": 1},
    "manifest_bom_crlf.csv": {},
    "manifest_header_only.csv": {},
    # 0001 has a quote inside a field, which is no mistake; 0002 lacks fields, 0003 has one too many
    "manifest_bad_rows.csv": {"bad_row": 2, "duplicate_key": 1, "no_key": 1},
}
WHOLE = {".parquet": ("good.parquet", 3), ".csv": ("manifest_bom_crlf.csv", 1)}


def corrupt(folder: Path, names: list[str], *, cache_dir: Path) -> Table:
    """The manifests have no images: their keys stand for the paths."""
    image = "image" if names[0].endswith(".parquet") else "key"
    paths = [str(folder / name) for name in names]
    return table(paths, image_column=image, key_column="key", cache_dir=str(cache_dir))


def test_every_corrupt_table_behaves_as_expected(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "corrupt"
    expected = json.loads((folder / "expected.json").read_text())["files"]
    tables = {name: entry["expect"] for name, entry in expected.items() if "table/" in name and ".json" not in name}
    assert len(tables) == 10
    for name, expect in tables.items():
        path = folder / name
        if expect == "error":
            with pytest.raises(DataError, match=path.name):
                corrupt(path.parent, [path.name], cache_dir=tmp_path)
        elif expect == "ok:0":  # nothing comes out of it: no pairs for a run, no harm beside another file
            with pytest.raises(DataError, match=rf"{path.name}: no usable pair"):
                corrupt(path.parent, [path.name], cache_dir=tmp_path)
            companion, size = WHOLE[path.suffix]
            data = corrupt(path.parent, [path.name, companion], cache_dir=tmp_path)
            assert (len(data), kinds(data)) == (size, EXPECTED_BAD[path.name])
        else:
            data = corrupt(path.parent, [path.name], cache_dir=tmp_path)
            assert kinds(data) == EXPECTED_BAD[path.name]
            assert expect in ("report", f"ok:{len(data)}")


def test_the_rows_of_a_bad_manifest_are_listed(shared: Path, tmp_path: Path) -> None:
    data = corrupt(shared / "data" / "corrupt" / "table", ["manifest_bad_rows.csv"], cache_dir=tmp_path)
    assert [data.describe(i).key for i in range(len(data))] == ["0000", "0001", "0004"]
    assert list(data.captions())[:2] == ["a red, round thing", 'unclosed "quote']
    assert [(sample.kind, sample.key) for sample in data.bad.first] == [
        ("bad_row", "manifest_bad_rows.csv:4"),
        ("bad_row", "manifest_bad_rows.csv:5"),
        ("duplicate_key", "0000"),
        ("no_key", "manifest_bad_rows.csv:7"),
    ]
    assert data.bad.first[0].reason == "line 4 has 2 fields, the header 4"


def test_the_icons_hold_what_their_description_says(shared: Path, tmp_path: Path) -> None:
    root = shared / "data" / "icon-captions"
    sizes = {"val": 319, "test_family": 1135, "test_concept": 1497, "test_both": 63}
    for split, size in sizes.items():
        path = str(root / f"{split}.parquet")
        data = table(
            path, caption_column="captions", key_column="key", label_columns=["label"], cache_dir=str(tmp_path)
        )
        assert (len(data), data.bad.total) == (size, 0)
        assert data[0].image.size == (48, 48)
    everything = table(str(root / "*.parquet"), key_column="key", where={"split": list(sizes)}, cache_dir=str(tmp_path))
    assert len(everything) == sum(sizes.values())
