"""The figures of `benchmarks.data` as tables for the terminal and for a document."""

from typing import Any, NamedTuple

from rich.table import Table


class Block(NamedTuple):
    """One table: the first column to the left, the others to the right."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def blocks(result: dict[str, Any]) -> list[Block]:
    return [_opening(result), _speed(result), *([_waiting(result)] if result["waiting"] else [])]


def rich_tables(result: dict[str, Any]) -> list[Table]:
    tables = []
    for block in blocks(result):
        table = Table(title=block.title)
        for i, column in enumerate(block.columns):
            table.add_column(column, justify="right" if i else "left")
        for row in block.rows:
            table.add_row(*row)
        tables.append(table)
    return tables


def markdown(result: dict[str, Any]) -> str:
    machine, generated = result["machine"], result["generated"]
    lines = [
        f"`{machine['command']}`",
        "",
        f"torch {machine['torch']}, {machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, "
        f"load average {machine['load_before']} before and {machine['load_after']} after. "
        f"{result['pairs']:,} pairs in {result['shards']} shards ({generated['bytes'] / 2**20:,.0f} MiB, "
        f"{generated['image_bytes']:,.0f} bytes per image), written in {generated['seconds']:.1f} s.",
    ]
    for block in blocks(result):
        lines += [
            "",
            f"{block.title}:",
            "",
            f"| {' | '.join(block.columns)} |",
            "|---" + "|--:" * (len(block.columns) - 1) + "|",
        ]
        lines += [f"| {' | '.join(row)} |" for row in block.rows]
    lines += ["", *(f"Not measured: {name}: {reason}." for name, reason in result["missing"].items())]
    return "\n".join(lines).rstrip() + "\n"


def _opening(result: dict[str, Any]) -> Block:
    columns = (
        "index",
        "pairs",
        "seconds",
        "CPU seconds",
        "index MiB",
        "index bytes/pair",
        "own memory MiB",
        "mapped MiB",
    )
    rows = [
        (
            row["index"],
            f"{row['pairs']:,}",
            f"{row['seconds']:.2f}",
            f"{row['cpu_seconds']:.2f}",
            _mib(row["index_bytes"]),
            f"{row['index_bytes'] / row['pairs']:.1f}",
            f"{_mib(row['own_opened'])} / {_mib(row['own_read'])}",
            f"{_mib(row['mapped_opened'])} / {_mib(row['mapped_read'])}",
        )
        for row in result["opening"]
    ]
    return Block(
        "Opening in a fresh process; growth of memory after opening / after reading 2,000 pairs", columns, rows
    )


def _speed(result: dict[str, Any]) -> Block:
    rows = [
        (
            row["source"],
            str(row["workers"]),
            f"{row['median']:,.0f}",
            f"{row['min']:,.0f}-{row['max']:,.0f}",
            "" if row["workers"] else f"{row['cpu_ms']:.2f}",
        )
        for row in result["speed"]
    ]
    title = f"Pairs per second, {result['image_size']} px, batches of {result['batch_size']}, "
    title += f"medians of {result['rounds']} rounds of {result['batches']} batches"
    return Block(title, ("source", "workers", "pairs/s", "min-max", "CPU ms/pair"), rows)


def _waiting(result: dict[str, Any]) -> Block:
    rows = [
        (row["source"], str(row["workers"]), f"{row['wait_ms']:.1f}", f"{row['step_ms']:.0f}", f"{row['share']:.1%}")
        for row in result["waiting"]
    ]
    columns = ("source", "workers", "wait ms", "step ms", "share of time")
    return Block("Waiting for data in a training step of model=limoe_emoji", columns, rows)


def _mib(count: float) -> str:
    return f"{count / 2**20:.1f}"
