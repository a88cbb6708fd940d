"""The figures as a table for the terminal and for a document: one block per case, the dense layer first."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from rich.table import Table

COLUMNS = ("layer", "ratio", "min-max", "kept", "at equal kept", "CPU time", "peak MiB", "ms", "others", "waits")


def rich_table(result: dict[str, Any]) -> Table:
    table = Table(title=_title(result))
    table.add_column(COLUMNS[0], no_wrap=True)  # names stay whole however wide the figures of a slow machine are
    for column in COLUMNS[1:]:
        table.add_column(column, justify="right")
    for case, rows in _blocks(result):
        table.add_section()
        table.add_row(case, style="bold")
        for row in rows:
            table.add_row(*_cells(row))
    return table


def markdown(result: dict[str, Any]) -> str:
    machine = result["machine"]
    lines = [
        f"`{machine['command']}`",
        "",
        f"torch {machine['torch']}, {machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, "
        f"load average {machine['load_before']} before and {machine['load_after']} after; {_title(result)}.",
        "",
        "| " + " | ".join(("case", *COLUMNS)) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    for case, rows in _blocks(result):
        lines += ["| " + " | ".join((case, *_cells(row))) + " |" for row in rows]
    lines += ["", *(f"Not measured: {name}: {reason}." for name, reason in result["missing"].items())]
    return "\n".join(lines) + "\n"


def _blocks(result: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for case, rows in groupby(result["rows"], key=lambda r: (r["dtype"], r["tokens"], r["k"], r["experts"])):
        dtype, tokens, k, experts = case
        yield f"{dtype} T={tokens:,} K={k} E={experts}", list(rows)


def _title(result: dict[str, Any]) -> str:
    group = "all pairs" if result["pairs_per_group"] is None else f"{result['pairs_per_group']} pairs"
    return (
        f"width {result['width']}, hidden {result['hidden']}, {result['routing']} routing, BPR, slots shared "
        f"by {group}, {'with' if result['aux'] else 'without'} losses, medians of {result['rounds']} pairs"
    )


def _cells(row: dict[str, Any]) -> list[str]:
    is_dense = row["layer"] == "dense"
    return [
        row["layer"],
        f"{row['ratio']:.2f}",
        "" if is_dense else f"{row['ratio_min']:.2f}-{row['ratio_max']:.2f}",
        "" if row["kept"] is None else f"{row['kept']:.1%}",
        "" if row["ratio_at_equal_kept"] is None else f"{row['ratio_at_equal_kept']:.2f}",
        f"{row['cpu_ratio']:.2f}",
        f"{row['peak_mib']:.0f}",
        f"{row['milliseconds']:.1f}",
        f"{row['neighbours']:.0%}",
        {None: "", True: "yes", False: "no"}[row["waits_for_device"]],
    ]
