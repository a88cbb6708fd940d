"""Train a tokenizer on the captions of a data set, save it, and print its statistics.

limoe tokenizer data=emoji data.root=DIR                             byte-level BPE to tokenizer.json
limoe tokenizer data=emoji tokenizer=unigram tokenizer.vocab_size=8000 out=emoji.json
limoe tokenizer tokenizer=file tokenizer.path=T.json tokenizer.vocab_size=N out=mine.json     an existing one
"""

import shlex
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from rich.text import Text

from limoe.config.keys import arguments_of
from limoe.config.objects import instantiate
from limoe.data.text.text_tokenizer import TextTokenizer, measure
from limoe.data.text.tokenizers import TokenizerFactory, sample_captions
from limoe.errors import DataError, require
from limoe.files import write_text
from limoe.types import PairDataset


def run(cfg: DictConfig) -> None:
    """Write one tokenizer.json and print its statistics."""
    out = Path(cfg.out)
    require(cfg.overwrite or not out.exists(), "out", "a new file (overwrite=true replaces an old one)", str(out))
    require(cfg.max_measured > 0, "max_measured", "> 0", cfg.max_measured)
    factory: TokenizerFactory = instantiate(cfg.tokenizer)
    source: PairDataset = instantiate(cfg.data.module.train)
    with arguments_of(cfg.tokenizer):
        tokenizer = factory.fit(source.captions())
    sample, total = sample_captions(source.captions(), size=cfg.max_measured)
    try:
        write_text(out, tokenizer.tokenizer.to_str(pretty=True))
    except OSError as error:
        raise DataError(f"out: {out} cannot be written: {error.strerror}") from error
    console = Console()
    console.print(_summary(measure(tokenizer, sample), tokenizer=tokenizer, total=total))
    console.print(Text(f"written: {out}"), soft_wrap=True)
    console.print(Text(f"use it: limoe train ... {usage(tokenizer, out)}"), soft_wrap=True)


def usage(tokenizer: TextTokenizer, path: Path) -> str:
    """The overrides of `limoe train` that use the saved tokenizer."""
    words = [f"tokenizer.path={path.resolve()}", f"tokenizer.vocab_size={tokenizer.vocab_size}"]
    settings = {"sticky_eos": tokenizer.sticky_eos, "count_pad": tokenizer.counts_pad}
    flags = [f"tokenizer.{name}=true" for name, is_set in settings.items() if is_set]
    return shlex.join(["tokenizer=file", *words, f"tokenizer.length={tokenizer.length}", *flags])


def _summary(found: dict[str, Any], *, tokenizer: TextTokenizer, total: int) -> Table:
    """The statistics that `measure` found, on a sample of `total` captions."""
    part = f" (measured on {found['captions']:,} of them)" if found["captions"] < total else ""
    unknown = "none: all texts are covered" if found["unknown"] is None else f"{found['unknown']:.2%} of tokens"
    lengths = f"mean {found['mean_length']:.1f}, 95 % at most {found['p95_length']}"
    table = Table(title="Tokenizer", title_justify="left", show_header=False)
    table.add_row("captions", f"{total:,}{part}")
    table.add_row("vocabulary", f"{tokenizer.vocab_size:,} tokens, {found['used_tokens']:,} of them used")
    table.add_row("tokens per caption, with eos", lengths)
    table.add_row(f"cut at length {tokenizer.length}", f"{found['cut']:.2%} of captions")
    table.add_row("per token", f"{found['bytes_per_token']:.2f} bytes")
    table.add_row("unknown", unknown)
    return table
