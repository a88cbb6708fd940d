"""Tables for pages, for the terminal, and as CSV."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rich.table import Table
from rich.text import Text


class Entry(NamedTuple):
    """A cell: its text, and the number that it shows, if any."""

    text: str
    number: float | None = None


@dataclass(frozen=True)
class Sheet:
    """A table; `name` is the stem of its files, and a row has one entry per column."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]

    @property
    def numeric(self) -> list[bool]:
        """By column: True if it holds numbers, which are right-aligned."""
        return [any(row[i].number is not None for row in self.rows) for i in range(len(self.columns))]


def sheet(name: str, columns: Sequence[str], rows: Sequence[Sequence[Entry | str]]) -> Sheet:
    """A `Sheet` from rows of entries and plain texts."""
    entries = (tuple(Entry(cell) if isinstance(cell, str) else cell for cell in row) for row in rows)
    return Sheet(name, tuple(columns), tuple(entries))


def as_rich(sheet: Sheet, *, title: str) -> Table:
    """The table for the terminal."""
    table = Table(title=Text(title), title_justify="left")
    for column, numeric in zip(sheet.columns, sheet.numeric, strict=True):
        table.add_column(column, justify="right" if numeric else "left", no_wrap=not numeric)
    for row in sheet.rows:
        table.add_row(*(Text(cell.text) for cell in row))
    return table


def as_csv(sheet: Sheet) -> str:
    """The table as CSV: numbers with six digits, texts of cells without a number."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(sheet.columns)
    for row in sheet.rows:
        writer.writerow(cell.text if cell.number is None else f"{cell.number:.6g}" for cell in row)
    return text.getvalue()


def write_sheet(sheet: Sheet, folder: Path) -> None:
    """Write `<name>.csv` into `folder`; for a table without rows remove it."""
    path = folder / f"{sheet.name}.csv"
    if sheet.rows:
        path.write_text(as_csv(sheet), encoding="utf-8", errors="replace")
    else:
        path.unlink(missing_ok=True)
