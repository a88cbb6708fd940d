"""Run folders as one report: found, grouped by their configs, compared."""

import itertools
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from limoe.cli.commands import report
from limoe.config.places import config_dir, register_resolvers
from limoe.errors import ConfigError
from limoe.studies.cost import Cost
from limoe.studies.joint import joint_study
from limoe.studies.plan import differences
from limoe.studies.report import write_report
from limoe.studies.run_set import digest, find_runs
from tests.helpers.fake_run import trained, trial, write_run

LOSS = "val/loss"


def reported(*places: Path | str, out: Path | None = None, metrics: list[str] | None = None, log_dir: Path) -> None:
    words = {"runs": [str(place) for place in places], "out": out and str(out), "metrics": metrics}
    report.run(OmegaConf.create({**words, "paths": {"log_dir": str(log_dir)}}))


def test_runs_become_variants_over_seeds(tmp_path: Path) -> None:
    folders = [
        *(trained(tmp_path / f"wide_{seed}", seed=seed, experts=32) for seed in (1, 0)),
        *(trained(tmp_path / f"base_{seed}", seed=seed) for seed in (0, 1, 2)),
        trained(tmp_path / "failed", seed=2, experts=32, status="failed", error="DataError: gone", metrics={}),
    ]
    study, plan, rows = joint_study(folders, metrics=None)
    wide, base = "model.num_experts=32", "model.num_experts=8"
    assert study.baseline == wide  # of the first run
    assert study.variants == {wide: (wide,), base: ()}
    assert study.base == ("experiment=scenes",) and study.seeds == (0, 1, 2)
    found = [(found.trial.variant, found.trial.seed, found.state.status) for found in rows]
    assert found == [
        *((wide, seed, "done") for seed in (0, 1)),
        (wide, 2, "failed"),
        *((base, seed, "done") for seed in (0, 1, 2)),
    ]
    assert OmegaConf.to_container(plan.configs[wide])["model"]["num_experts"] == 32  # type: ignore[index,call-overload]


def test_variants_of_a_study_keep_their_names_and_early_deaths_their_place(tmp_path: Path) -> None:
    trial(tmp_path / "wide" / "seed_0", status="done", experts=32)
    trial(tmp_path / "wide" / "seed_1", status="failed", seed=1, attempts=0)
    trial(tmp_path / "base" / "seed_0", status="killed", variant="base")
    trial(tmp_path / "gone" / "seed_0", status="failed", variant="gone", attempts=0)
    study, _, rows = joint_study(find_runs([str(tmp_path)])[0], metrics=None)
    assert study.baseline == "base"
    assert {(found.trial.variant, found.trial.seed): found.state.status for found in rows} == {
        ("base", 0): "killed",
        ("gone", 0): "failed",
        ("wide", 0): "done",
        ("wide", 1): "failed",
    }


@pytest.mark.parametrize("torn", ["", "{", '{"status": "do', "[1]", '{"metrics": 3}'])
def test_a_torn_record_is_a_row(tmp_path: Path, torn: str) -> None:
    folders = [trained(tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    (folders[1] / "run.json").write_text(torn)
    rows = joint_study(folders, metrics=None)[2]
    assert [(found.trial.variant, found.trial.seed, found.state.status) for found in rows] == [
        ("experiment=scenes", 0, "done"),
        ("experiment=scenes", 1, "unreadable"),
    ]
    assert rows[1].metrics == {} and not rows[1].successful


def test_a_torn_config_is_a_variant_of_its_own(tmp_path: Path) -> None:
    folders = [trained(tmp_path / name) for name in ("a", "b", "c")]
    (folders[0] / "config.yaml").write_text("model: [")
    (folders[1] / "config.yaml").unlink()
    study, _, rows = joint_study(folders, metrics=None)
    assert study.baseline == "experiment=scenes"
    assert [found.trial.variant for found in rows] == ["experiment=scenes", "config unknown", "config unknown (2)"]


def test_runs_of_other_tasks(tmp_path: Path) -> None:
    folders = [
        trained(tmp_path / "a", metrics={LOSS: 2.0, "val/emoji/zeroshot_top1": 0.1}),
        trained(tmp_path / "b", metrics={LOSS: 2.0, "val/icons/zeroshot_top1": 0.1}),
    ]
    with pytest.raises(ConfigError, match=r"no held-out metric but the loss is common to all \(tasks: emoji, icons\)"):
        joint_study(folders, metrics=None)
    assert [found.key for found in joint_study(folders, metrics=[LOSS])[0].metrics] == [LOSS]
    with pytest.raises(ConfigError, match="metrics: no run has logged 'val/los'; did you mean 'val/loss'"):
        joint_study(folders, metrics=["val/los"])


def test_one_run_has_its_own_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = trained(tmp_path / "only" / "run")
    reported(folder.parent, log_dir=tmp_path)
    assert (folder / "report.html").is_file() and not (tmp_path / "reports").exists()
    assert capsys.readouterr().out == f"report: {folder / 'report.html'}\n"
    reported(folder, out=tmp_path / "page.html", log_dir=tmp_path)
    assert (tmp_path / "page.html").read_text() == (folder / "report.html").read_text()


def test_several_runs_have_a_folder_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [trained(tmp_path / "runs" / str(seed), seed=seed) for seed in (0, 1)]
    (folders[0] / "empty").mkdir()
    reported(tmp_path / "runs", folders[0] / "empty", log_dir=tmp_path)
    out = tmp_path / "reports" / digest(folders)
    assert {"report.html", "report.md", "answer.svg", "runs.csv", "table.csv"} <= {path.name for path in out.iterdir()}
    said = capsys.readouterr()
    assert f"report: {out / 'report.html'}" in said.out and said.err.startswith("left out, since they hold no run: ")
    assert "2 of 2 trials finished" in (out / "report.html").read_text()
    assert not (folders[0] / "report.html").exists()


@pytest.mark.parametrize("out", ["page.html", "runs/0", "file"])
def test_where_a_joint_report_does_not_go(tmp_path: Path, out: str) -> None:
    for seed in (0, 1):
        trained(tmp_path / "runs" / str(seed), seed=seed)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="out must be a folder of its own for the report of 2 runs"):
        reported(tmp_path / "runs", out=tmp_path / out, log_dir=tmp_path)


def test_a_large_report_is_small_enough_to_pass_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """5 variants x 3 seeds x 3 metrics with 200 logged steps each, against steps, pairs, FLOPs and time."""
    keys = ["val/x/zeroshot_top1", "val/x/i2t_r1", LOSS]
    folders = []
    for experts, seed in itertools.product((2, 4, 8, 16, 32), range(3)):
        values = dict.fromkeys(keys, 0.5)
        folders.append(trained(tmp_path / f"{experts}_{seed}", seed=seed, experts=experts, metrics=values))
        noise = ((step * (seed + number + experts) % 97 / 97 for number in range(3)) for step in range(200))
        lines = [f"{step},{','.join(map(str, numbers))}" for step, numbers in enumerate(noise)]
        (folders[-1] / "csv" / "metrics.csv").write_text("\n".join([f"step,{','.join(keys)}", *lines]))
    study, plan, rows = joint_study(folders, metrics=None)
    costs = [Cost(name, 1, 1, 1e9, 64, 200, 0.5) for name in study.variants]
    monkeypatch.setattr("limoe.studies.report.costs_of", lambda plan, rows, *, leave_out: costs)
    write_report(study, plan, rows, out=tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count('<img class="by-') == 4 * 3
    assert len(page.encode()) < 600_000
    assert (tmp_path / "out" / "answer.svg").stat().st_size < 150_000  # this one is committed


def sweep(folder: Path, *overrides: str, seeds: tuple[int, ...] = (0, 1, 2)) -> list[Path]:
    """Runs with the configs that `limoe train` composes and writes for these overrides and seeds."""
    register_resolvers()
    folders = []
    with initialize_config_dir(str(config_dir("train")), version_base="1.3"):
        for seed in seeds:
            words = [*overrides, f"seed={seed}"]
            run = folder / f"{len(list(folder.glob('*')))}"
            write_run(run, seed=seed, overrides=words)
            cfg = compose("train", overrides=[*words, f"paths.output_dir={run}"])
            (run / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True))
            folders.append(run)
    return folders


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["+logger.name=run_${seed}", "+data.module.note=split-${seed}.csv"],  # texts that hold it
        ["optimizer.weight_decay=1", "model.moe_layers=[0,1]", "+data.module.extra=2"],  # equal it in one run by chance
        ["+data.module.split=${seed}", "+eval.synthetic_val.seed=${seed}"],
    ],
)
def test_the_seeds_of_a_sweep_are_one_variant(tmp_path: Path, words: list[str]) -> None:
    """Real configs: `data.module.seed` and others are interpolated from the seed, and some equal it by chance."""
    folders = sweep(tmp_path, *words)
    study, plan, rows = joint_study(folders, metrics=None)
    assert len(study.variants) == 1 and study.seeds == (0, 1, 2)
    assert [row.trial.seed for row in rows] == [0, 1, 2]
    assert OmegaConf.select(plan.configs[study.baseline], "data.module.seed") == "<seed>"


def test_what_equals_the_seed_in_some_runs_only_tells_variants_apart(tmp_path: Path) -> None:
    """Two values of a key that are seeds too, each with all seeds: two variants of three seeds, and no key but this
    differs."""
    folders = sweep(tmp_path, "routing.k=1", seeds=(1, 2)) + sweep(tmp_path, "routing.k=2", seeds=(1, 2))
    study, plan, rows = joint_study(folders, metrics=None)
    assert study.variants == {"routing.k=1": ("routing.k=1",), "routing.k=2": ("routing.k=2",)}
    assert [(row.trial.variant, row.trial.seed) for row in rows] == [(n, s) for n in study.variants for s in (1, 2)]
    changed = differences(plan.configs, baseline="routing.k=1")["routing.k=2"]
    assert set(changed) == {"routing.k", "model.router.k"} and changed["routing.k"] == (1, 2)
