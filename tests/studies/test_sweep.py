"""What the table of a sweep shows, and which trials are started."""

import json
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from limoe.studies import sweep
from limoe.studies.plan import Plan
from limoe.studies.trial import State, Trial, read_state


def plan_in(folder: Path) -> Plan:
    trials = tuple(Trial("a", seed, (f"seed={seed}",), "0123456789ab", folder / f"t{seed}") for seed in range(3))
    return Plan(trials, ("m",), None, {"a": 20}, {"a": OmegaConf.create({})})


def finished(trial: Trial) -> None:
    trial.folder.mkdir(parents=True)
    (trial.folder / "trial.json").write_text(
        json.dumps({"status": "done", "error": "", "seconds": 5.0, "run": "try_1"})
    )


class Launcher:
    """Stands for `limoe trial --multirun`: notes the command and finishes what it was told to."""

    commands: ClassVar[list[list[str]]] = []

    def __init__(self, command: list[str], **_: Any) -> None:
        self.commands.append(command)
        self.returncode = 0
        plan = json.loads(Path(next(w for w in command if w.startswith("plan="))[6:-1]).read_text())
        for number in next(w for w in command if w.startswith("index="))[6:].split(","):
            finished(Trial("a", 0, (), "", Path(plan["trials"][int(number)]["folder"])))

    def poll(self) -> int:
        return self.returncode


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> type[Launcher]:
    monkeypatch.setattr(Launcher, "commands", [])
    monkeypatch.setattr(sweep.subprocess, "Popen", Launcher)
    monkeypatch.setattr(sweep, "_REFRESH", 0.0)
    return Launcher


def test_only_unfinished_trials_are_started(tmp_path: Path, launcher: type[Launcher]) -> None:
    plan = plan_in(tmp_path)
    finished(plan.trials[1])
    console = Console(record=True, width=100)
    states = sweep.run_sweep(plan, folder=tmp_path / "s", launcher=["hydra/launcher=joblib"], console=console)
    assert [state.status for state in states] == ["done"] * 3
    (command,) = launcher.commands
    assert command[:5] == [sys.executable, "-m", "limoe", "trial", "--multirun"]
    assert "index=0,2" in command and command[-1] == "hydra/launcher=joblib"
    said = console.export_text()
    assert "a seed 0: done" in said and "a seed 2: done" in said and "seed 1" not in said


def test_nothing_is_started_when_all_are_finished(tmp_path: Path, launcher: type[Launcher]) -> None:
    plan = plan_in(tmp_path)
    for trial in plan.trials:
        finished(trial)
    sweep.run_sweep(plan, folder=tmp_path / "s", launcher=[], console=Console(record=True))
    assert launcher.commands == [] and not (tmp_path / "s").exists()


def test_a_launcher_that_fails_says_so(
    tmp_path: Path, launcher: type[Launcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fails(Launcher):
        def __init__(self, command: list[str], stdout: Any, **_: Any) -> None:
            stdout.write("limoe: error: no launcher of that name\n")
            stdout.flush()
            self.returncode = 2

    monkeypatch.setattr(sweep.subprocess, "Popen", Fails)
    console = Console(record=True, width=300)
    states = sweep.run_sweep(plan_in(tmp_path), folder=tmp_path / "s", launcher=[], console=console)
    assert {state.status for state in states} == {"pending"}
    assert "the launcher ended early (exit code 2): no launcher of that name" in console.export_text()


def test_table(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    run = plan.trials[0].folder / "try_1" / "csv"
    run.mkdir(parents=True)
    (run / "metrics.csv").write_text("step,x\n9,1\n")
    states = [State("running", 0.0, run.parent), State("failed", 61.0, None, "why [it] failed"), State("pending")]
    console = Console(record=True, width=100)
    console.print(sweep.status_table(plan, states))
    text = console.export_text()
    assert "10 / 20" in text and "1 min 1 s" in text and "why [it] failed" in text
    assert read_state(plan.trials[2]).status == "pending"
