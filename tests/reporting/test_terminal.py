"""The tables in the terminal."""

import io
import json
import re
from pathlib import Path

from rich.console import Console

from limoe.reporting.findings import metric_sheet
from limoe.reporting.sheets import as_rich
from limoe.reporting.terminal import print_summary
from tests.helpers.fake_run import TOP1, write_run


def test_summary_in_the_terminal(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", caption="[red]x[/red]")
    (run / "report.html").touch()
    alarm = {"layer": 3, "modality": "text", "message": "text collapses in layer 3; raise [it]"}
    (run / "routing" / "alarms.jsonl").write_text(json.dumps(alarm))
    shown = io.StringIO()
    console = Console(file=shown, width=200)
    print_summary(run, console=console)
    text = shown.getvalue()
    assert "47.5% (top-1), 9.5 × chance (5.0%)" in text
    assert re.search(rf"{TOP1}\W+47.5%\W+5.0%\W+9.5 ×", text)
    # Load CV of (0, 1): standard deviation 0.5 over mean 0.5. Effective experts: exp(0.6) = 1.82.
    assert re.search(r"3\W+text\W+100.0%\W+1.00\W+0.500\W+0.600\W+1.8\W+1", text)
    assert "collapse alarm: text collapses in layer 3; raise [it]\n" in text
    assert f"report: {run.resolve() / 'report.html'}" in text and f"run folder: {run.resolve()}" in text


def test_metrics_in_the_terminal() -> None:
    shown = io.StringIO()
    console = Console(file=shown, width=100)
    table = metric_sheet({TOP1: 0.475, "val/[b]/i2t_r1": 0.5}, chance={TOP1: 0.05})
    console.print(as_rich(table, title="run [1]"))
    text = shown.getvalue()
    assert "run [1]" in text and "val/[b]/i2t_r1" in text and re.search(r"47.5%\W+5.0%\W+9.5 ×", text)
