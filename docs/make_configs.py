"""Writes configs.md from the comments in configs/: python docs/make_configs.py."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import yaml

REPO = Path(__file__).resolve().parents[1]
PAGE = REPO / "docs" / "configs.md"
NOT_OPTIONS = ("hydra", "paths", "local")
WITHOUT_KEYS = ("experiment", "debug")  # their keys are those of the other groups
MANY = 4  # values or options that a cell may list
WIRING = ("module", "images", "train", "test")  # subtrees that only pass other keys on
INTRO = """\
# Config groups

Written by `python docs/make_configs.py` from the comments in `configs/`; a test fails when it is out of date.

`limoe train group=option key=value` chooses an option and changes a key; `[a,b]` chooses several options of a list
group; `~group.key` drops an entry, `+group.key=value` adds one. `limoe train --cfg job --resolve` prints the result. A
default that differs between options is followed by the option in brackets. `<name>` is the name of the option.
"""

Leaf = tuple[str, str, str]  # key, value, comment


def header(path: Path) -> str:
    """The comment on top of a file as one text, without the lines that show a command."""
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith(("# @package", "#   limoe ")):
            lines.append(line[1:].strip())
    return " ".join(lines)


def summary(path: Path) -> str:
    """The first sentence of the header, and its sentences "Needs ..." and "Add it with ..."."""
    first, *others = re.split(r"(?<=[.?])\s", header(path))
    return " ".join([first, *(sentence for sentence in others if sentence.startswith(("Needs ", "Add it with ")))])


def leaves(path: Path, *, inherit: bool = True) -> dict[str, Leaf]:
    """Dotted key -> its key, value and comment as written; with `inherit` also those of the options it builds on,
    with their comments."""
    lines = path.read_text().splitlines()
    root = yaml.compose("\n".join(lines))
    found: dict[str, Leaf] = {}
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        return found
    lists = [node.value for key, node in root.value if key.value == "defaults"]
    if len(root.value) == len(lists):  # a mere list of options has no keys of its own
        return found
    names = [entry.value for entries in lists for entry in entries if isinstance(entry, yaml.ScalarNode)]
    for parent in (path.parent / f"{name}.yaml" for name in names if inherit):
        found |= leaves(parent) if parent.is_file() else {}
    for key, value, comment in _walk(root, lines):
        found[key] = (key, value, found[key][2] if key in found else comment)
    return found


def _walk(node: yaml.MappingNode, lines: list[str], prefix: str = "") -> Iterator[Leaf]:
    for key, value in node.value:
        name = key.value
        if name in ("defaults", "hydra") or (name.startswith("_") and name.endswith("_")):
            continue
        if isinstance(value, yaml.MappingNode) and not value.flow_style:
            yield from _walk(value, lines, f"{prefix}{name}.") if name not in WIRING else ()
            continue
        start, end = value.start_mark, value.end_mark
        text = " ".join([lines[start.line][start.column :], *lines[start.line + 1 : end.line + 1]])
        text = text if end.line > start.line else lines[start.line][start.column : end.column]
        comment = lines[end.line][end.column :].partition("#")[2].strip() if end.line < len(lines) else ""
        if comment or "${" not in text:
            yield f"{prefix}{name}", text.strip() or "null", comment


def key_table(group: str, options: dict[str, dict[str, Leaf]], *, default: str) -> list[str]:
    """One row per key and meaning, with the options that have it."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for option, found in options.items():
        for key, value, comment in found.values():
            shared = f"<name>{key.removeprefix(option)}" if key.startswith(f"{option}.") else key
            rows.setdefault((shared, comment), {})[option] = value
    table = ["| key | default | meaning | in |", "|---|---|---|---|"]
    for (key, comment), values in rows.items():
        shown = key if len(values) > 1 else key.replace("<name>", next(iter(values)))
        where = _where(set(values), {name for name, found in options.items() if found})
        table.append(f"| `{group}.{shown}` | {_defaults(values, default)} | {_cell(comment)} | {where} |")
    return table if rows else []


def _defaults(values: dict[str, str], default: str) -> str:
    usual = values.get(default) or Counter(values.values()).most_common(1)[0][0]
    others = {name: value for name, value in values.items() if value != usual}
    if len(others) > MANY:
        return f"`{usual}`, differs"
    return f"`{usual}`" + (f" ({', '.join(f'{n}: `{v}`' for n, v in others.items())})" if others else "")


def _where(names: set[str], everyone: set[str]) -> str:
    """Which options have a key: nothing for all, `limoe_*` for all that begin so, the exceptions where they are few."""
    short = _families(names, everyone)
    others = _families(everyone - names, everyone)
    if len(short) > MANY and len(others) < len(short):
        return f"all but {', '.join(others)}" if others else ""
    return ", ".join(short) if others else ""


def _families(names: set[str], everyone: set[str]) -> list[str]:
    left, found = set(names), []
    for prefix in sorted({name.rpartition("_")[0] for name in everyone} - {""}, key=lambda p: (len(p), p)):
        members = {name for name in everyone if name.startswith(f"{prefix}_")}
        if len(members) > 2 and members <= left:
            found.append(f"{prefix}_*")
            left -= members
    return [f"`{name}`" for name in [*found, *sorted(left)]]


def _cell(text: str) -> str:
    linked = re.sub(r"(?:see )?\bdocs/(\w+)\.md", r"[\1](\1.md)", text)
    return linked.replace("|", "\\|").replace("<", "&lt;")


def defaults_of_train() -> dict[str, tuple[str, str]]:
    """Group -> its default option and description, from the defaults list of train.yaml."""
    lines = (REPO / "configs" / "train.yaml").read_text().splitlines()
    found = (re.fullmatch(r"  - (?:optional )?(\w+): (\S+)(?: # (.*))?", line) for line in lines)
    return {m[1]: (m[2].strip("[]"), m[3] or "") for m in found if m and m[1] not in NOT_OPTIONS}


def group_section(group: str, default: str, description: str) -> list[str]:
    files = {path.stem: path for path in sorted((REPO / "configs" / group).glob("[!_]*.yaml"))}
    which = "follows `data`" if "${" in default else f"`{default}`" if default != "null" else "none"
    out = [f"## {group}", "", f"{_cell(description[:1].upper() + description[1:])}. Default: {which}.", ""]
    if group == "experiment":
        out += ["| option | question | cost |", "|---|---|---|"]
        out += [f"| `{name}` | {_headed(path, 'Question')} | {_headed(path, 'Cost')} |" for name, path in files.items()]
    else:
        out += ["| option | what it is |", "|---|---|"]
        out += [f"| `{name}` | {_cell(summary(path))} |" for name, path in files.items()]
    if group not in WITHOUT_KEYS:
        table = key_table(group, {name: leaves(path) for name, path in files.items()}, default=default)
        out += ["", *table] if table else []
    return [*out, ""]


def _headed(path: Path, name: str) -> str:
    found = re.search(rf"\b{name}: (.*?)(?= [A-Z]\w+: |$)", header(path))
    return _cell(found[1]) if found else ""


def command_section(command: str) -> list[str]:
    path = REPO / "configs" / f"{command}.yaml"
    own = leaves(path, inherit=False).values()
    rows = [f"| `{key}` | `{value}` | {_cell(comment)} |" for key, value, comment in own if value != "{}"]
    return [f"### {command}", "", _cell(header(path)), "", "| key | default | meaning |", "|---|---|---|", *rows, ""]


def page() -> str:
    out = [INTRO]
    for group, (default, description) in defaults_of_train().items():
        out += group_section(group, default, description)
    out += ["## Keys of the commands", ""]
    for path in sorted((REPO / "configs").glob("*.yaml")):
        out += command_section(path.stem)
    return "\n".join(out).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"written: {PAGE}")
