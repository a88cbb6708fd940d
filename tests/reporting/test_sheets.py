"""Tables as CSV."""

from pathlib import Path

from limoe.reporting.sheets import Entry, as_csv, sheet, write_sheet

TABLE = sheet("cost", ["variant", "GFLOP"], [["a_b", Entry("1.2 ± 0.1 %", 0.0123456789)], ["x, y", "–"]])


def test_csv_has_the_numbers() -> None:
    assert as_csv(TABLE) == 'variant,GFLOP\na_b,0.0123457\n"x, y",–\n'


def test_an_empty_sheet_leaves_no_file_of_an_earlier_report(tmp_path: Path) -> None:
    write_sheet(TABLE, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["cost.csv"]
    write_sheet(sheet("cost", ["variant"], []), tmp_path)
    assert not list(tmp_path.iterdir())
