"""The command line: commands are found, Hydra gets its part, an error that a user can mend is one line and code 2."""

import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

import limoe
from limoe.cli import main as cli
from limoe.cli.commands import Command, all_commands
from limoe.config.objects import instantiate
from limoe.errors import DataError
from tests.helpers.paths import REPO

CONFIGS = {
    "train.yaml": """
defaults: [_self_, model: tiny, paths: default, hydra: default, optional experiment: null]
task: toy
seed: 0
data: {root: null, batch_size: 4}
""",
    "model/tiny.yaml": "{width: 8, num_experts: 2}",
    "model/big.yaml": "{width: 16, num_experts: 4}",
    "experiment/missing.yaml": '# @package _global_\ndata: {folder: "???"}',
    "experiment/dangling.yaml": "# @package _global_\nseed: ${data.sead}",
    "experiment/broken.yaml": "a: [1\nb: 2",
    "experiment/twice.yaml": "a: 1\na: 2",
    "experiment/nowhere.yaml": "# @package _global_\ndefaults: [override /model: gone]",
}


@dataclass(frozen=True)
class Stub(Command):
    """A command whose `run` is given."""

    run: Callable[[DictConfig], Any] | None = None

    def load(self) -> Callable[..., Any]:
        assert self.run is not None
        return self.run


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder, a small config tree elsewhere, and logging as it was before."""
    configs = tmp_path / "tree" / "configs"
    for name in ("hydra", "paths"):
        shutil.copytree(REPO / "configs" / name, configs / name)
    for name, text in CONFIGS.items():
        (configs / name).parent.mkdir(exist_ok=True)
        (configs / name).write_text(text)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("LIMOE_CONFIG_DIR", str(configs))
    monkeypatch.setenv("LIMOE_RUN_ID", "the-run")
    for name in ("LIMOE_LOG_DIR", "LIMOE_DATA_DIR", "LIMOE_TRACEBACK", "HYDRA_FULL_ERROR"):
        monkeypatch.delenv(name, raising=False)
    handlers, level = logging.root.handlers[:], logging.root.level
    yield work
    logging.root.handlers[:], logging.root.level = handlers, level


@pytest.fixture
def call(here: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs `limoe <words>` in this process with `run` as the command `train`; returns the exit code."""

    def call(
        *words: str,
        run: Callable[[DictConfig], Any] = lambda cfg: None,
        positional: Any = None,
        goes_on: bool = False,
    ) -> int:
        stub = Stub(
            "train",
            help="Train a toy.\n\nlimoe train seed=1",
            positional=positional,
            flags={"--short": "seed=7"},
            goes_on=goes_on,
            run=run,
        )
        monkeypatch.setattr(cli, "all_commands", lambda: {"train": stub})
        monkeypatch.setattr(sys, "argv", ["limoe", *words])
        try:
            cli.main()
        except SystemExit as error:
            assert isinstance(error.code, int | None)
            return error.code or 0
        return 0

    return call


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The only line on stderr."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("limoe: error: ")
    return lines[0]


def test_every_command_has_a_summary_a_run_and_a_config() -> None:
    commands = all_commands()
    assert "report" in commands
    for name, command in commands.items():
        assert command.summary.endswith("."), name
        assert (REPO / "configs" / f"{name}.yaml").is_file()
        assert callable(command.load())


def test_without_a_command_the_commands_are_listed(
    call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call() == 0
    bare = capsys.readouterr().out
    assert re.search(r"^  train +Train a toy\.$", bare, re.MULTILINE)
    assert call("--help") == 0
    assert capsys.readouterr().out == bare


def test_version(call: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--version") == 0
    assert capsys.readouterr().out == f"limoe {limoe.__version__}\n"


def test_misspelt_command(call: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert call("trian") == 2
    assert "unknown command 'trian'; did you mean 'train'?" in error_line(capsys)
    assert call("seed=1") == 2
    assert "the command comes first" in error_line(capsys)


def test_command_gets_the_composed_config(call: Callable[..., int]) -> None:
    seen: list[DictConfig] = []
    assert call("train", "model=big", "seed=3", run=seen.append) == 0
    assert (seen[0].model.width, seen[0].seed, "hydra" in seen[0]) == (16, 3, False)


def test_run_folder_is_made_and_left_empty(call: Callable[..., int], here: Path) -> None:
    seen: list[str] = []
    assert call("train", run=lambda cfg: seen.append(cfg.paths.output_dir)) == 0
    folder = here / "logs" / "toy" / "runs" / "the-run"
    assert seen == [str(folder)]
    assert list(folder.iterdir()) == []


def test_log_dir_follows_the_environment(call: Callable[..., int], here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMOE_LOG_DIR", str(here / "elsewhere"))
    assert call("train") == 0
    assert [p.name for p in here.iterdir()] == ["elsewhere"]


def test_the_job_sees_the_whole_command(call: Callable[..., int]) -> None:
    seen: list[Any] = []
    words = ("train", "seed=1", "--config-name", "train")
    assert call(*words, run=lambda cfg: seen.append(list(sys.argv))) == 0
    assert seen == [["limoe", *words]]
    assert sys.argv == ["limoe", *words]
    assert "HYDRA_FULL_ERROR" not in os.environ


def test_lightning_can_repeat_the_command_for_another_rank(call: Callable[..., int]) -> None:
    """Lightning appends these three to `sys.argv[1:]` (lightning.fabric...subprocess_script)."""
    seen: list[str] = []
    extra = ['hydra.run.dir="logs/x"', "hydra.job.name=train_ddp_process_1", "hydra.output_subdir=null"]
    assert call("train", "seed=1", *extra, run=lambda cfg: seen.append(cfg.paths.output_dir)) == 0
    assert seen[0].endswith("/logs/x")


def test_an_option_of_a_command_is_an_override(call: Callable[..., int]) -> None:
    seen: list[DictConfig] = []
    assert call("train", "--short", run=seen.append) == 0
    assert seen[0].seed == 7


def test_positional_arguments(call: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[Any] = []
    odd = "it's, [odd] {x}\\"
    words = ("train", "a b", "seed=1", odd)
    assert call(*words, run=lambda cfg: seen.append(list(cfg.data.root)), positional=["data.root"]) == 0
    assert call("train", "a.ckpt", run=lambda cfg: seen.append(cfg.data.root), positional="data.root") == 0
    assert seen == [["a b", odd], "a.ckpt"]
    assert call("train", "a.ckpt", "b.ckpt", positional="data.root") == 2
    assert "cannot read 'b.ckpt'" in error_line(capsys)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["model.num_expert=8"], "unknown key 'model.num_expert'; did you mean 'model.num_experts'?"),
        (["num_experts=8"], "unknown key 'num_experts'; did you mean 'model.num_experts'?"),
        (["data.colour=1"], "unknown key 'data.colour' (data has: root, batch_size)"),
        (["model=[tiny,bug]"], "model has no option 'bug'; did you mean 'big'? (options: big, tiny)"),
        (["modle=big"], "unknown key 'modle'; did you mean 'model'?"),
        (["~model.widht"], "unknown key 'model.widht'; did you mean 'model.width'?"),
        (["model=bug"], "model has no option 'bug'; did you mean 'big'? (options: big, tiny)"),
        (["experiment=nowhere"], "model has no option 'gone' (options: big, tiny)"),
        (["seed=1,2"], "add -m"),
        (["data.root=[1"], "cannot read the override 'data.root=[1'"),
        (["seed"], "cannot read 'seed': an override is key=value"),
        (["+model.width=3"], "'model.width'"),
        (["experiment=missing"], "data.folder needs a value: add data.folder=..."),
        (["experiment=dangling"], "seed: Interpolation key 'data.sead' not found"),
        (["experiment=broken"], "experiment/broken.yaml, line 2: "),
        (["experiment=twice"], "experiment/twice.yaml, line 2: found duplicate key a"),
        (["hydra.run.dir=/dev/null/x"], "/dev/null/x"),
        (["--multrun", "seed=1"], "unknown option '--multrun'; did you mean '--multirun'?"),
        (["--cfg"], "option --cfg needs a value"),
        (["--cfg", "jobb"], "option --cfg must be one of all, hydra, job, got 'jobb'"),
        (["--info=x"], "option --info must be one of"),
        (["data=[1]"], "Error merging override data=[1]"),
        (["-m", "seed=1,2", "model=bug"], "model has no option 'bug'"),
        (["--config-name", "tran"], "there is no config 'tran'"),
    ],
)
def test_a_bad_config_is_one_line(
    call: Callable[..., int], capsys: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    def run(cfg: DictConfig) -> None:
        from limoe.config.objects import plain

        plain(cfg)

    assert call("train", *words, run=run) == 2
    assert expected in error_line(capsys)


def test_an_error_the_user_can_mend_is_one_line(
    call: Callable[..., int], capsys: pytest.CaptureFixture[str], here: Path
) -> None:
    def run(cfg: DictConfig) -> None:
        raise DataError("shard a.tar is\nno tar \x1b[31m")

    assert call("train", run=run) == 2
    assert error_line(capsys) == "limoe: error: shard a.tar is no tar \\x1b[31m"
    assert list((here / "logs" / "toy" / "runs").iterdir()) == []  # nothing was begun, so nothing is left


def test_what_a_failed_run_wrote_stays(call: Callable[..., int], here: Path) -> None:
    def run(cfg: DictConfig) -> None:
        Path(cfg.paths.output_dir, "kept").touch()
        raise DataError("broken")

    assert call("train", run=run) == 2
    assert (here / "logs" / "toy" / "runs" / "the-run" / "kept").exists()
    (here / "empty").mkdir()
    os.chdir(here / "empty")
    assert call("train", "hydra.run.dir=.", run=lambda cfg: instantiate({"_target_": "limoe.gone.X"})) == 2
    assert (here / "empty").is_dir()  # the folder we stand in is left alone


def test_such_an_error_inside_a_constructor(call: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    target = {"_target_": "limoe.errors.require", "condition": False, "key": "model.k", "rule": "> 0", "value": -1}
    assert call("train", run=lambda cfg: instantiate(target)) == 2
    assert error_line(capsys) == "limoe: error: model.k must be > 0, got -1"


def test_a_traceback_on_demand(
    call: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(cfg: DictConfig) -> None:
        raise DataError("broken")

    monkeypatch.setenv("LIMOE_TRACEBACK", "1")
    assert call("train", run=run) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("limoe: error: broken\n")


def test_our_own_fault_keeps_its_traceback(call: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    def run(cfg: DictConfig) -> None:
        raise RuntimeError("a bug")

    assert call("train", run=run) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("RuntimeError: a bug\n")


def test_a_sweep_goes_on_after_a_failed_job(
    call: Callable[..., int], capsys: pytest.CaptureFixture[str], here: Path
) -> None:
    seen: list[int] = []

    def run(cfg: DictConfig) -> None:
        seen.append(cfg.seed)
        if cfg.seed == 1:
            raise DataError("bad seed")

    assert call("train", "-m", "seed=0,1,2", run=run) == 2
    assert seen == [0, 1, 2]
    err = capsys.readouterr().err
    assert err.count("limoe: error: bad seed") == 1
    assert "Traceback" not in err
    sweep = here / "logs" / "toy" / "multiruns" / "the-run"
    assert sorted(p.name for p in sweep.iterdir() if p.is_dir()) == ["0", "2"]


def test_interrupts_have_their_exit_codes(call: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    class SIGTERMException(SystemExit):
        """Named as Lightning's."""

    def ctrl_c(cfg: DictConfig) -> None:
        raise KeyboardInterrupt

    def ctrl_c_in_lightning(cfg: DictConfig) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    def sigterm(cfg: DictConfig) -> None:
        raise SIGTERMException

    assert call("train", run=ctrl_c) == 130
    assert call("train", run=ctrl_c_in_lightning) == 130
    assert call("train", run=sigterm) == 143
    said = capsys.readouterr().err.splitlines()
    assert said == ["limoe: interrupted", "limoe: interrupted", "limoe: terminated"]
    assert call("train", run=ctrl_c, goes_on=True) == 130
    assert capsys.readouterr().err == "limoe: interrupted; the same command goes on\n"
    assert {name for name, command in all_commands().items() if command.goes_on} == {"study", "compare", "search"}


def test_cfg_shows_the_config_and_runs_nothing(
    call: Callable[..., int], capsys: pytest.CaptureFixture[str], here: Path
) -> None:
    def run(cfg: DictConfig) -> None:
        raise AssertionError

    assert call("train", "model=big", "--cfg", "job", "--resolve", run=run) == 0
    assert "width: 16" in capsys.readouterr().out
    assert list(here.iterdir()) == []


def test_help_of_a_command(call: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert call("train", "--help") == 0
    out = capsys.readouterr().out
    assert out.startswith("Train a toy.\n\nlimoe train seed=1\n")
    assert "model: big, tiny" in out
    assert "batch_size: 4" in out


def test_info_takes_its_kind_or_none(call: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert call("train", "--info", "defaults", "seed=1") == 0
    assert "model/tiny" in capsys.readouterr().out
    assert call("train", "--info", "seed=1") == 0


def test_studies_are_on_the_search_path(call: Callable[..., int], here: Path) -> None:
    study = here.parent / "tree" / "experiments" / "study"
    study.mkdir(parents=True)
    (study / "grid.yaml").write_text("# @package _global_\nseed: 42")
    seen: list[int] = []
    assert call("train", "+study=grid", run=lambda cfg: seen.append(cfg.seed)) == 0
    assert seen == [42]


def test_a_project_adds_options_and_code(
    call: Callable[..., int], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`./configs` without a train.yaml beside limoe's own; the files beside it can be imported, but hide nothing."""
    (here / "configs" / "model").mkdir(parents=True)
    (here / "configs" / "model" / "huge.yaml").write_text("{width: 32, _target_: a_project.Thing}")
    (here / "configs" / "model" / "big.yaml").write_text("width: 1")
    (here / "a_project.py").write_text("class Thing:\n    def __init__(self, width): self.width = width")
    (here / "json.py").write_text("raise AssertionError")
    seen: list[Any] = []
    before = list(sys.path)
    try:
        assert call("train", "model=huge", run=lambda cfg: seen.append(instantiate(cfg.model).width)) == 0
        assert call("train", "model=big", run=lambda cfg: seen.append(cfg.model.width)) == 0
        assert sys.path[: len(before)] == before
        assert seen == [32, 16]  # an option of limoe is not replaced
        assert call("train", "model=hugh") == 2
        assert "did you mean 'huge'? (options: big, huge, tiny)" in error_line(capsys)
        (here / "configs" / "model" / "odd.yaml").write_text("own_width: 32")
        assert call("train", "model=odd", "model.own_widht=3") == 2
        assert error_line(capsys).endswith("unknown key 'model.own_widht'; did you mean 'model.own_width'?")
    finally:
        sys.path[:] = before


def test_from_any_folder_as_a_module(here: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "LIMOE_CONFIG_DIR"}
    command = [sys.executable, "-m", "limoe", "report", "no-such-run"]
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "limoe: error: no-such-run is no run folder: it holds no run.json\n"
