"""Train a tokenizer on the captions of a data set, save it, and print its statistics.

limoe tokenizer data=emoji data.root=DIR                             byte-level BPE to tokenizer.json
limoe tokenizer data=emoji tokenizer=unigram tokenizer.vocab_size=8000 out=emoji.json
limoe tokenizer tokenizer=file tokenizer.path=T.json tokenizer.vocab_size=N out=mine.json     an existing one
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from rich.text import Text

from limoe.atlas.words import Speller
from limoe.config.keys import arguments_of
from limoe.config.objects import instantiate
from limoe.data.text.text_tokenizer import TextTokenizer
from limoe.data.text.tokenizer_statistics import TokenizerStatistics, measure
from limoe.data.text.tokenizers import TokenizerFactory, sample_captions
from limoe.errors import DataError, require
from limoe.files import write_text
from limoe.types import PairDataset


def run(cfg: DictConfig) -> None:
    """Write one tokenizer.json and print its statistics and examples.

    Raises:
        ConfigError: a setting is refused, or the file exists already.
        DataError: data is missing or broken, or the file cannot be written.
    """
    out = Path(cfg.out)
    require(cfg.overwrite or not out.exists(), "out", "a new file (overwrite=true replaces an old one)", str(out))
    require(cfg.max_measured > 0, "max_measured", "> 0", cfg.max_measured)
    require(cfg.examples >= 0, "examples", ">= 0", cfg.examples)
    factory: TokenizerFactory = instantiate(cfg.tokenizer)
    source: PairDataset = instantiate(cfg.data.module.train)
    with arguments_of(cfg.tokenizer):
        tokenizer = factory.fit(source.captions())
    sample, total = sample_captions(source.captions(), size=cfg.max_measured)
    statistics = measure(tokenizer, sample)
    _save(tokenizer, out)
    console = Console()
    console.print(_summary(statistics, tokenizer=tokenizer, total=total))
    console.print(_examples(tokenizer, _spread(sample, cfg.examples)))
    console.print(Text(f"written: {out}"), soft_wrap=True)
    console.print(Text(f"use it: limoe train ... {usage(tokenizer, out)}"), soft_wrap=True)


def usage(tokenizer: TextTokenizer, path: Path) -> str:
    """The overrides of `limoe train` that use the saved tokenizer."""
    words = [f"tokenizer.path={path.resolve()}", f"tokenizer.vocab_size={tokenizer.vocab_size}"]
    settings = {"sticky_eos": tokenizer.sticky_eos, "count_pad": tokenizer.counts_pad}
    flags = [f"tokenizer.{name}=true" for name, is_set in settings.items() if is_set]
    return shlex.join(["tokenizer=file", *words, f"tokenizer.length={tokenizer.length}", *flags])


def _spread(captions: Sequence[str], number: int) -> list[str]:
    """Up to `number` captions at equal distances."""
    return [captions[place * len(captions) // number] for place in range(min(number, len(captions)))]


def _save(tokenizer: TextTokenizer, out: Path) -> None:
    try:
        write_text(out, tokenizer.tokenizer.to_str(pretty=True))
    except OSError as error:
        raise DataError(f"out: {out} cannot be written: {error.strerror}") from error


def _summary(statistics: TokenizerStatistics, *, tokenizer: TextTokenizer, total: int) -> Table:
    read = f"{total:,}"
    if statistics.captions < total:
        read += f" (measured on {statistics.captions:,} of them)"
    unknown = "none: all texts are covered" if statistics.unknown is None else f"{statistics.unknown:.2%} of tokens"
    rows = [
        ("captions", read),
        ("vocabulary", f"{tokenizer.vocab_size:,} tokens, {statistics.used_tokens:,} of them used"),
        ("tokens per caption, with eos", f"mean {statistics.mean_length:.1f}, 95 % at most {statistics.p95_length}"),
        (f"cut at length {tokenizer.length}", f"{statistics.cut:.2%} of captions"),
        ("per token", f"{statistics.bytes_per_token:.2f} bytes"),
        ("unknown", unknown),
    ]
    table = Table(title="Tokenizer", title_justify="left", show_header=False)
    for row in rows:
        table.add_row(*row)
    return table


def _examples(tokenizer: TextTokenizer, captions: Sequence[str]) -> Table:
    table = Table("caption", "tokens", title="Examples (‑ goes on with a word)", title_justify="left")
    spell = Speller(tokenizer)
    for caption in captions:
        shown = caption if len(caption) <= 80 else f"{caption[:79]}…"
        ids, mask = tokenizer.encode([caption])
        table.add_row(Text(repr(shown)[1:-1]), Text(" ".join(map(spell, ids[mask].tolist()))))
    return table
