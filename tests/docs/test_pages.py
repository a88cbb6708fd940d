"""What the pages say exists: links, files, modules; and every command on them composes."""

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from limoe.cli import arguments
from limoe.cli.commands import all_commands
from limoe.config.places import register_resolvers
from tests.helpers.paths import REPO

PAGES = [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").glob("*.md"))]
PAGES += sorted((REPO / "experiments").glob("*/README.md"))
NAMES = [str(page.relative_to(REPO)) for page in PAGES]
OWN_OPTIONS = "docs/extending.md"  # its commands and files are those of another project: test_extending.py
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLANK = re.compile(r"\.\.\.|[<$]|=\[?(?:NAME|option|value|limoe_mine|mine)\b|\bnew\b")  # for the reader to fill in


def written_commands(text: str) -> Iterator[str]:
    """`limoe ...` in fenced and indented blocks, and in backticks; without comments, continued lines joined."""
    plain = FENCE.sub("", text)
    blocks = [found[2] for found in FENCE.finditer(text) if found[1] in ("", "sh", "bash")]
    blocks += re.findall(r"(?:^    .*\n)+", plain, re.MULTILINE)
    lines = [line.strip() for block in blocks for line in re.sub(r"\\\n\s*", "", block).splitlines()]
    lines += re.findall(r"`([^`\n]+)`", plain)
    for line in lines:
        found = re.match(r"(?:[A-Z_]+=\S+ )*(limoe [a-z]+ .*)", line)
        if found is not None:
            yield re.split(r"\s+#\s|\s{4,}", found[1])[0]


def anchors(page: Path) -> set[str]:
    """How GitHub names the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    page = REPO / name
    text = FENCE.sub("", page.read_text())
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    for link in links:
        if re.match(r"https?:|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_in_the_index() -> None:
    index = (REPO / "docs" / "README.md").read_text()
    pages = {page.name for page in (REPO / "docs").glob("*.md")} - {"README.md"}
    assert pages == set(re.findall(r"\]\((\w+\.md)\)", index))


@pytest.mark.parametrize("name", NAMES)
def test_files_and_modules_exist(name: str) -> None:
    text = (REPO / name).read_text()
    paths = re.findall(
        r"(?<![\w/.<-])((?:src/limoe|configs|tests|docs|benchmarks|experiments)/[\w/.-]*\w)(?![\w<*{])", text
    )
    for path in paths:
        is_mine = name == OWN_OPTIONS and f"`{path}`\n" in text
        assert is_mine or (REPO / path).exists() or re.search(r"my_|\bmine|_mine", path), path
    for dotted in re.findall(r"`(limoe(?:\.\w+)+)`", text):
        module, _, attribute = dotted.rpartition(".")
        try:
            importlib.import_module(dotted)
        except ModuleNotFoundError:
            assert hasattr(importlib.import_module(module), attribute), dotted


@pytest.mark.parametrize("name", [name for name in NAMES if name != OWN_OPTIONS])
def test_commands_compose(name: str) -> None:
    """The command is there, groups have these options, and keys exist; of a sweep the first job."""
    register_resolvers()
    commands = all_commands()
    with initialize_config_dir(str(REPO / "configs"), version_base="1.3"):
        for line in dict.fromkeys(written_commands((REPO / name).read_text())):
            if BLANK.search(line):
                continue
            _, command, *words = shlex.split(line)
            assert command in commands, command
            options, others = arguments.split(words, flags=commands[command].flags)
            found = arguments.overrides(others, positional=commands[command].positional)
            found = [word for word in found if not word.startswith(("hydra.", "hydra/"))]
            if {"-m", "--multirun"} & set(options):
                found = [re.sub(r"=([^\[{,]+),.*", r"=\1", word) for word in found]
            try:
                compose(command, overrides=[*found, "paths.output_dir=out"])
            except Exception as error:
                pytest.fail(f"{line}\n{error}")


def test_commands_are_found() -> None:
    fenced = "```\nA=b limoe train x=1 \\\n  y=2   # why\nls\n```\n"
    text = f"Run `limoe info model=a` or\n\n{fenced}\n    limoe study new DIR     writes\n"
    assert list(written_commands(text)) == ["limoe train x=1 y=2", "limoe study new DIR", "limoe info model=a"]
    assert sum(len(list(written_commands(page.read_text()))) for page in PAGES) > 70
