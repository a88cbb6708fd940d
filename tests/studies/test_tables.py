"""What a study's tables and page say, on rows worked out by hand."""

import csv
import io
import itertools
import math
import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest
from omegaconf import OmegaConf

from limoe.errors import DataError
from limoe.reporting.sheets import as_csv
from limoe.runs.folder import RunFolder, last_logged
from limoe.studies.cost import Cost
from limoe.studies.curves import MAX_POINTS, _curves, _line, metric_figures
from limoe.studies.plan import Plan, differences, load_trial
from limoe.studies.report import MAIN, conclude, contents, render, write_report
from limoe.studies.results import RUNS, Row, kept_slots, read_csv, write_csv
from limoe.studies.side_tables import routing_sheet, trial_sheet
from limoe.studies.study import Metric
from limoe.studies.tables import compare, number_sheet, result_sheet, sentence, share, values, with_interval
from limoe.studies.trial import State, Trial
from tests.helpers.study_rows import CONFIGS, COSTS, PLAN, ROWS, STUDY, TOP1, row


def test_lines() -> None:
    a, b, c = compare(STUDY, ROWS)
    assert a.cells[0].value is not None and a.cells[0].value.mean == pytest.approx(0.31)
    assert (a.successful, a.finished, a.trials) == (3, 3, 3)
    # 0.1 in every seed: no spread at all, so the interval is a point
    assert b.cells[0].difference is not None and b.cells[0].difference.mean == pytest.approx(0.1)
    assert b.cells[0].verdict == "better"
    assert b.cells[1].verdict == "within noise"  # -0.1, 0, 0.1
    assert b.successful == 3  # dense: the losses alone count
    # a failed trial is no result, whatever it logged
    assert c.cells[0].value is None and c.cells[0].verdict == "no result"
    assert (c.finished, c.successful, c.trials) == (0, 0, 1)


def test_sentence_names_every_variant() -> None:
    said = sentence(STUDY, compare(STUDY, ROWS))
    # sd of 0.30, 0.31, 0.32 is 0.01: half = 4.303 * 0.01 / sqrt(3) = 0.0248
    assert said.startswith("accuracy, against a (31.0 ± 2.5 %): b (+10.0")
    assert said.endswith("pp) is better; c has no result (3 seeds, 95 % intervals, differences paired by seed).")
    assert sentence(STUDY, compare(STUDY, [])).startswith("No answer: no trial of a has a value of accuracy")


def test_sentence_groups_by_verdict() -> None:
    """a: 0.30, 0.31, 0.32; b and c a tenth less; d differs by -0.1, 0, 0.1; e has one seed, f another one."""
    study = replace(STUDY, variants=dict.fromkeys("abcdef", ()))
    numbers = {"a": 0.30, "b": 0.20, "c": 0.20}
    rows = [row(name, seed, **{TOP1: value + 0.01 * seed}) for name, value in numbers.items() for seed in range(3)]
    rows += [row("d", seed, **{TOP1: 0.2 + 0.11 * seed}) for seed in range(3)]
    rows += [row("e", 0, **{TOP1: 0.3}), row("f", 7, **{TOP1: 0.3})]
    said = sentence(study, compare(study, rows)).partition(": ")[2]
    worse, noise, one, other = said.split("; ")
    assert worse.startswith("b (-10.0") and " and c (-10.0" in worse and worse.endswith(" are worse")
    assert noise.startswith("d (+0.0 ± ") and noise.endswith(" is within noise")
    assert one == "e (+0.00 pp) has one seed: no interval"
    assert other.startswith("f has no seed in common (1 to 3 seeds,")
    two = [found for found in ROWS if found.trial.seed < 2]
    # 0.30 and 0.31: half = 12.706 * 0.005 = 6.4 %
    assert sentence(STUDY, compare(STUDY, two)).startswith("accuracy, against a (30.0, 31.0 %): b (+10.0")
    assert sentence(STUDY, compare(STUDY, two)).endswith(
        "no result (2 seeds, single values, differences paired by seed)."
    )
    alone = replace(STUDY, variants={"a": ()})
    assert sentence(alone, compare(alone, rows)) == "accuracy: a (31.0 ± 2.5 %), 3 seeds."


KEPT = {"val/loss": 2.0, "train/loss": 2.0, "router/image/success_rate": 0.9, "router/text/success_rate": 0.95}


@pytest.mark.parametrize(
    ("status", "metrics", "successful"),
    [
        ("done", KEPT, True),  # 0.9 is enough
        ("stopped", KEPT, True),
        ("diverged", KEPT, False),
        ("done", KEPT | {"router/text/success_rate": 0.899}, False),
        ("done", KEPT | {"router/image/success_rate": math.nan}, False),
        ("done", KEPT | {"val/loss": math.inf}, False),
        ("done", KEPT | {"train/loss": math.nan}, False),
        ("done", {"val/loss": 2.0}, True),  # dense
        ("done", {"val/loss": 2.0, "router/text/success_rate": 0.5}, False),
        ("done", {TOP1: 0.5}, False),  # its loss is unknown
    ],
)
def test_what_is_successful(status: str, metrics: dict[str, float], successful: bool) -> None:
    assert row("a", 0, status, **metrics).successful is successful


def test_share_of_successful_trials() -> None:
    """Of four trials one failed, and one of the three that finished lost its slots: 75 % and 50 %."""
    lost = KEPT | {"router/text/success_rate": 0.4}
    rows = [row("a", 0, **KEPT), row("a", 1, **KEPT), row("a", 2, **lost), row("a", 3, "failed", **KEPT)]
    line = compare(replace(STUDY, variants={"a": ()}), rows)[0]
    assert share(line.finished, line.trials) == ("3 / 4 (75 %)", 0.75)
    assert share(line.successful, line.trials) == ("2 / 4 (50 %)", 0.5)
    assert share(0, 0).text == "–"
    assert kept_slots(lost) == {"image": True, "text": False} and kept_slots({}) == {}


def test_of_two_trials_with_one_seed_the_last_finished_one_counts() -> None:
    rows = [row("a", 0, **{TOP1: 0.1}), row("a", 0, **{TOP1: 0.2}), row("a", 0, "failed", **{TOP1: 0.3})]
    assert values(rows, "a", TOP1) == {0: 0.2}


@pytest.mark.parametrize(
    ("key", "values", "signed", "text"),
    [
        (TOP1, [0.30, 0.31, 0.32], False, "31.0 ± 2.5 %"),
        ("val/loss", [2.0, 2.0, 2.3], False, "2.10 ± 0.43"),  # sd 0.1732, half 0.4303
        (TOP1, [0.5], True, "+50.00 pp"),  # a difference of shares
        ("val/loss", [1234.5], False, "1234.5"),  # no interval: about four digits
        ("val/loss", [0.0, 0.0, 0.0], False, "0.00 ± 0.00"),
        (TOP1, [0.321, 0.33], False, "32.1, 33.0 %"),  # two seeds: half = 12.706 * 0.45 = 5.7 %, so one decimal
        (TOP1, [0.1, -0.02], True, "+10.0, -2.0 pp"),
        ("val/loss", [2.0, 2.03], False, "2.00, 2.03"),  # half 0.19
    ],
)
def test_numbers_show_two_digits_of_their_interval(key: str, values: list[float], signed: bool, text: str) -> None:
    from limoe.reporting.seeds import estimate

    assert with_interval(key, estimate(values), signed=signed) == text
    assert with_interval(key, None) == "–"


def test_csv_and_cells() -> None:
    lines = compare(STUDY, ROWS)
    table = list(csv.DictReader(io.StringIO(as_csv(number_sheet(STUDY, lines)))))
    assert [entry["variant"] for entry in table] == ["a", "a", "b", "b", "c", "c"]
    assert float(table[2]["difference"]) == pytest.approx(0.1) and table[2]["verdict"] == "better"
    assert table[4]["mean"] == "" and table[4]["seeds"] == "0"
    assert (table[4]["finished"], table[4]["successful"], table[4]["trials"]) == ("0", "0", "1")
    rows = [[cell.text for cell in row] for row in result_sheet(STUDY, lines).rows]
    assert rows[0] == ["a", "31.0 ± 2.5 %", "2.000 ± 0.000", "3 / 3 (100 %)", "3 / 3 (100 %)"]
    assert rows[-1] == ["c", "–", "–", "0 / 1 (0 %)", "0 / 1 (0 %)"]


def test_runs_csv_holds_every_trial(tmp_path: Path) -> None:
    write_csv(ROWS, tmp_path / "runs.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "runs.csv").read_text())))
    assert len(rows) == 7
    assert rows[0]["commit"] == "f" * 40 and float(rows[0][TOP1]) == 0.3
    assert (rows[-1]["status"], rows[-1]["error"], rows[-1][TOP1]) == ("failed", "why", "")
    assert (rows[0]["successful"], rows[-1]["successful"], rows[0]["run"]) == ("true", "false", "nowhere")


def test_a_row_is_named_by_its_folder() -> None:
    assert [replace(ROWS[0], trial=replace(ROWS[0].trial, folder=Path(name))).name for name in ("a/b", "a/12")] == [
        "b",
        "a/12",
    ]


def test_routing_health_by_hand() -> None:
    """Two finished seeds of two layers: worst layer 0.7; effective experts (2 + 4 + 6 + 8) / 4; 4 dead in 4 layers."""
    rows = []
    for seed, (rates, used, dead) in enumerate([((0.9, 0.7), (2.0, 4.0), (0, 1)), ((0.95, 0.99), (6.0, 8.0), (0, 3))]):
        metrics = {"val/loss": 2.0, "router/text/success_rate": sum(rates) / 2, "router/text/success_rate_min": 0.1}
        for layer in (0, 1):
            names = {"success_rate": rates[layer], "effective_experts": used[layer], "dead_experts": dead[layer]}
            metrics |= {f"router/L0{layer}/text/{name}": value for name, value in names.items()}
        rows.append(row("a", seed, **metrics))
    rows.append(row("a", 2, "failed", **{"router/text/success_rate": 0.0, "router/L00/text/success_rate": 0.0}))
    configs = dict.fromkeys("abc", OmegaConf.create({"model": {"num_experts": 8}}))
    table = routing_sheet(STUDY, [*rows, row("b", 0, **{"val/loss": 2.0})], configs)
    assert len(table.rows) == 1  # b is dense, and images of a were not measured
    texts = [cell.text for cell in table.rows[0]]
    assert texts[:3] == ["a", "text", "80.0, 97.0 %"]
    assert texts[3:] == ["70.0%", "5.0 of 8", "1.0", "1 / 2 (50 %)", "0 / 2"]
    unknown = routing_sheet(STUDY, rows, dict.fromkeys("abc", OmegaConf.create({})))
    assert unknown.rows[0][4].text == "5.0"


def test_failed_trials_are_rows_with_their_reason() -> None:
    table = trial_sheet(STUDY.metrics, [row("a", -1, "killed", **{TOP1: 0.5})])
    assert [cell.text for cell in table.rows[0]] == [
        *("a", "–", "killed", "no", "1 min 0 s", "–", "–", "nowhere", "why"),
    ]


def test_figures_for_every_known_axis() -> None:
    kinds = {"a": (1e12, 0.5), "b": (2e12, None), "c": (1e12, 0.5)}
    costs = [Cost(name, 1, 1, flops / 64, 64, 20, seconds) for name, (flops, seconds) in kinds.items()]
    figures = metric_figures(STUDY, ROWS, costs, metrics=STUDY.metrics)
    # 20 steps: 1,280 pairs (below 2 thousand); at most 40 TFLOP; 10 s. Nothing was logged of the loss on the way.
    axes = ("training steps", "pairs seen", "TFLOP of training", "seconds of training")
    assert [figure.alt.partition(", mean")[0] for figure in figures] == [f"accuracy against {axis}" for axis in axes]
    assert [figure.axis for figure in figures] == ["steps", "pairs", "FLOPs", "time"]
    bare = metric_figures(STUDY, ROWS, [], metrics=STUDY.metrics)
    assert [figure.axis for figure in bare] == ["steps"]  # what a step costs is unknown


def test_curves_are_those_of_finished_trials_and_thin() -> None:
    """A trial that failed at step 0 must not cut the others short; 4 points per mean."""
    long = {step: float(step) for step in range(4 * MAX_POINTS)}
    rows = [replace(row("a", seed), curves={TOP1: long}) for seed in (0, 1)]
    rows.append(replace(row("a", 2, "failed"), curves={TOP1: {0: 5.0}}))
    line = _line("a", _curves(rows, "a", TOP1), 2.0, color="#000000", style="-")
    assert len(line.x) == MAX_POINTS
    assert (line.x[:2], line.y[:2], line.low[0], line.high[0]) == ([3.0, 11.0], [1.5, 5.5], 1.5, 1.5)
    assert _curves(rows[2:], "a", TOP1) == [{0: 5.0}]  # none finished


def test_of_several_attempts_the_later_one_counts() -> None:
    trial, state = Trial("a", 0, (), "", Path("t")), State("done", 60.0)
    runs = [RunFolder(Path("t"), curves={"x": {0: 1.0, 9: 1.0}}), RunFolder(Path("t"), curves={"x": {9: 2.0, 19: 3.0}})]
    found = Row.of(trial, state, runs)
    assert found.curves == {"x": {0: 1.0, 9: 2.0, 19: 3.0}}
    assert found.seconds_per_step is None  # the first attempt may have thrown steps away
    assert Row.of(trial, state, runs[1:]).seconds_per_step == 3.0  # 20 steps
    assert Row.of(trial, state, []) == Row(trial, state)
    runs[1].record["cpu_seconds"] = 90.5
    assert (Row.of(trial, state, runs[1:]).cpu_seconds, Row.of(trial, state, runs).cpu_seconds) == (90.5, None)


def test_times_survive_runs_csv_and_old_files_lack_them(tmp_path: Path) -> None:
    write_csv([replace(ROWS[0], cpu_seconds=90.5), ROWS[1]], tmp_path / RUNS)
    again = read_csv(tmp_path / RUNS)
    assert [row.cpu_seconds for row in again] == [90.5, None]
    assert (again[0].seconds_per_step, again[0].metrics) == (pytest.approx(60 / 21, rel=1e-5), ROWS[0].metrics)
    write_csv(ROWS[:1], tmp_path / RUNS)  # as before this number was recorded
    assert "cpu_seconds" not in (tmp_path / RUNS).read_text()
    assert read_csv(tmp_path / RUNS)[0].cpu_seconds is None


def test_page_is_self_contained_and_escaped() -> None:
    page = render(contents(STUDY, PLAN, ROWS, costs=COSTS), "report.html")
    assert "Is &lt;b&gt; better?" in page and "<b>" not in page
    names = ("http-equiv", "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink")
    assert "http" not in re.sub("|".join(names), "", unquote(page))
    assert "6 of 7 trials finished" in page and "6 were successful" in page
    assert "b differs from a in 1 key:" in page and "<code>aux.w</code>" in page
    assert "10.00 M" in page and "73.7 %" in page and "second-hand" in page
    assert "Chance: accuracy 5.0%." in page
    assert page.count('type="radio"') == 3 and page.count(" checked>") == 1  # seconds per step are unknown
    for axis in ("steps", "pairs", "FLOPs"):
        assert f'id="axis-{axis}"' in page and f'class="by-{axis}"' in page


def test_many_metrics_go_into_a_second_table() -> None:
    metrics = tuple(Metric(f"val/{n}/zeroshot_top1", f"metric {n}") for n in range(MAIN + 2))
    found = contents(replace(STUDY, metrics=metrics), PLAN, ROWS, costs=COSTS)
    page, text = (render(found, name) for name in ("report.html", "report.md"))
    assert "<summary>2 more metrics</summary>" in page
    assert [line.count("metric ") for line in text.splitlines() if line.startswith("| variant | metric")] == [MAIN, 2]


def test_markdown() -> None:
    text = render(contents(STUDY, PLAN, ROWS, costs=COSTS), "report.md")
    assert "](answer.svg)" in text and "(differences.csv)" in text
    assert "| a | 31.0 ± 2.5 % | 2.000 ± 0.000 | 3 / 3 (100 %) | 3 / 3 (100 %) |" in text
    assert "2.00 ± 0.25 (+0.00 ± 0.25, within noise)" in text  # sd 0.1, half = 4.303 * 0.1 / sqrt(3)
    assert "| c | 0 | failed | no | 1 min 0 s | – | – | nowhere | why |" in text
    for before, line in itertools.pairwise(text.splitlines()):  # nothing may stand between the parts of a table
        assert not line.startswith("|---") or before.count("|") == line.count("|")


def test_all_files_of_a_report(tmp_path: Path) -> None:
    write_report(STUDY, PLAN, ROWS, out=tmp_path)
    tables = [f"{name}.csv" for name in ("table", "reach", "routing", "differences", "published")]
    assert {path.name for path in tmp_path.iterdir()} == {*tables, "report.html", "report.md", "answer.svg"}
    assert (tmp_path / "published.csv").read_text() == "what,value,certainty\nB/16,73.7 %,second-hand\n"
    assert (tmp_path / "differences.csv").read_text().splitlines()[1] == "b,aux.w,0,1"
    assert "Unknown for a, b, c: the config builds no model here." in (tmp_path / "report.html").read_text()


def test_a_report_can_be_made_again_of_its_rows_alone(tmp_path: Path) -> None:
    """Without curves.csv, as old results: a page without curves, also of some of the variants. The rows stay."""
    write_csv(ROWS, tmp_path / RUNS)
    saved = (tmp_path / RUNS).read_bytes()
    again = read_csv(tmp_path / RUNS)
    write_csv(again, tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == saved
    conclude(STUDY, PLAN, None, out=tmp_path)
    text = (tmp_path / "report.md").read_text()
    known = contents(STUDY, PLAN, [replace(row, curves={}) for row in ROWS], costs=[])  # no model can be built here
    assert text == render(known, "report.md")
    page = (tmp_path / "report.html").read_text()
    assert "6 of 7 trials finished" in page and "Chance: accuracy 5.0%." in page and "None: nothing was logged" in page
    some = replace(STUDY, variants={"a": (), "b": ("aux_loss=none",)}, seeds=(0, 1))
    plan = replace(PLAN, configs={name: CONFIGS[name] for name in some.variants})
    conclude(some, plan, None, out=tmp_path)
    assert "4 of 4 trials finished" in (tmp_path / "report.html").read_text()
    assert (tmp_path / RUNS).read_bytes() == saved


@pytest.mark.parametrize("text", ["variant,seed\na,0\n", "variant,seed,config_hash,run\na,x,b,c\n"])
def test_rows_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    (tmp_path / RUNS).write_text(text)
    with pytest.raises(DataError, match=r"runs\.csv cannot be read as the rows of a report"):
        read_csv(tmp_path / RUNS)


def test_a_report_of_rows_that_are_not_there(tmp_path: Path) -> None:
    """One plain line: which file, the rule, and what to do."""
    with pytest.raises(DataError) as caught:
        conclude(STUDY, PLAN, None, out=tmp_path / "new")
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / 'new' / RUNS} does not exist; report_only=true needs it")
    assert said.endswith("give its folder (out=FOLDER), or train first, without report_only")
    assert "\n" not in said and "Error" not in said
    assert not (tmp_path / "new").exists()


def test_differences_of_nested_configs() -> None:
    configs = {"a": OmegaConf.create({"x": {"y": 1, "z": 2}}), "b": OmegaConf.create({"x": {"y": 1}, "w": [1]})}
    assert differences(configs, baseline="a") == {"b": {"x.z": (2, None), "w": (None, [1])}}


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    trial = Trial("a", 1, ("x=1", "seed=1"), "0123456789ab", tmp_path / "t")
    Plan((trial,), ("m",), 9.0, {"a": 5}, {}).save(tmp_path / "plan.json")
    assert load_trial(tmp_path / "plan.json", 0) == (trial, {"metrics": ["m"], "timeout": 9.0})
    with pytest.raises(DataError, match="holds no trial 1"):
        load_trial(tmp_path / "plan.json", 1)


def test_last_logged(tmp_path: Path) -> None:
    assert last_logged(tmp_path)[0] == 0
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "metrics.csv").write_text("epoch,step,val/loss\n0,9,1.5\n0,19,\n0")
    assert last_logged(tmp_path)[0] == 20
    assert last_logged(tmp_path, "val/loss") == (10, 1.5)
    assert math.isnan(last_logged(tmp_path, "val/other")[1])
    (tmp_path / "csv" / "metrics.csv").write_text("")
    assert last_logged(tmp_path)[0] == 0
