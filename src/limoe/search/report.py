"""Report of a search: points as rows, the best one as overrides, optuna's figures."""

import base64
import io
import shlex
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import optuna
import yaml
from markdown_it import MarkdownIt
from matplotlib import pyplot
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization.matplotlib import plot_optimization_history, plot_param_importances, plot_slice
from tqdm import tqdm

from limoe.files import write_text
from limoe.reporting.findings import duration, number
from limoe.reporting.seeds import estimate, paired_difference, verdict
from limoe.reporting.sheets import sheet
from limoe.reporting.templates import template
from limoe.search.space import Search, as_word
from limoe.studies.tables import with_interval
from limoe.studies.trial import DONE, INTERRUPTED

_STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "limoe"}
_SELECTION_BIAS = (
    "The best of many points is biased upwards by selection, and with one seed per point there is no interval. "
    "To confirm it, train the point with seeds that the search has not used:"
)


def print_point(search: Search, study: optuna.Study, trial: FrozenTrial) -> None:
    """Print one line about a point that has ended."""
    status = trial.user_attrs.get("status", INTERRUPTED)
    if status == INTERRUPTED:
        return
    if trial.state == TrialState.COMPLETE:
        status = number(search.metric.key, trial.values[0])
        if study.best_trial.number == trial.number:
            status += " (the best so far)"
    words = [status, duration(trial.user_attrs.get("seconds")), " ".join(overrides_of(trial))]
    error = trial.user_attrs["error"]
    line = f"point {trial.user_attrs['point']}: {', '.join(filter(None, words))}{': ' if error else ''}{error}"
    tqdm.write(line)


def conclude(search: Search, points: Sequence[FrozenTrial], *, out: Path) -> FrozenTrial | None:
    """Write the points and their report to `out`, print the result, and return the best point (None without values)."""
    study = optuna.create_study(direction=search.direction)
    study.add_trials(points)  # numbered as the points are
    valued = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    best = study.best_trial if valued else None
    texts = {"trials.csv": table(search, study).to_csv(index=False, float_format="%.6g", lineterminator="\n")}
    plots = []
    if best is not None:
        plots = figures(search, study)
        content = {"base": list(search.study.base), "overrides": overrides_of(best)}
        note = f"# {sentence(search, valued, best)}\n# {_SELECTION_BIAS}\n# {command(search, best)}\n"
        texts["best.yaml"] = note + yaml.safe_dump(content, sort_keys=False, width=120, allow_unicode=True)
        texts["slices.svg"] = plots[0]
    texts["report.md"] = markdown(search, study, best)
    texts["report.html"] = page(search, texts["report.md"], plots)
    for name in ("best.yaml", "slices.svg"):
        (out / name).unlink(missing_ok=True)
    for name, text in texts.items():
        write_text(out / name, text)
    print(sentence(search, valued, best))
    print(f"report: {(out / 'report.html').resolve()}")
    return best


def table(search: Search, study: optuna.Study) -> Any:
    """Optuna's table of trials, one row per point."""
    frame = study.trials_dataframe(attrs=("number", "value", "params", "user_attrs"))
    frame.columns = frame.columns.str.replace("^(params|user_attrs)_", "", regex=True)
    frame["value"] = frame["value"].where(frame["status"] == DONE)  # that of a pruned trial is its last report
    for key in search.space:
        frame[key] = frame[key].map(as_word)
    by_seed = [f"{name}_seed_{seed}" for name in ("value", "hash") for seed in search.study.seeds]
    return frame.reindex(columns=["number", "status", "value", "seconds", *search.space, *by_seed, "error"])


def overrides_of(point: FrozenTrial) -> list[str]:
    return [f"{key}={as_word(value)}" for key, value in point.params.items()]


def command(search: Search, best: FrozenTrial) -> str:
    """The command that trains the best point with seeds that the search has not used."""
    first = max(search.study.seeds) + 1
    seeds = ",".join(str(first + i) for i in range(3))
    return shlex.join(["limoe", "train", "-m", *search.study.base, *overrides_of(best), f"seed={seeds}"])


def by_seed(point: FrozenTrial) -> dict[int, float]:
    """The values of a point, by seed."""
    prefix = "value_seed_"
    return {int(key[len(prefix) :]): value for key, value in point.user_attrs.items() if key.startswith(prefix)}


def interval(search: Search, point: FrozenTrial) -> str:
    """The value of a point with its 95 % interval over the seeds."""
    done = point.state == TrialState.COMPLETE
    return with_interval(search.metric.key, estimate(list(by_seed(point).values()))) if done else ""


def sentence(search: Search, valued: Sequence[FrozenTrial], best: FrozenTrial | None) -> str:
    """Summary of the search: the best point, its value, and how many points are within noise of it."""
    if best is None:
        return f"No answer: no point has a value of {search.metric.name}."
    text = f"{search.metric.name} {interval(search, best)} at {', '.join(overrides_of(best))}"
    text += f" (point {best.number}, the {'highest' if search.metric.higher else 'lowest'} of {len(valued)})."
    if len(search.study.seeds) == 1 or len(valued) == 1:
        return text
    differences = [paired_difference(by_seed(point), by_seed(best)) for point in valued if point.number != best.number]
    near = [verdict(difference, higher=search.metric.higher) for difference in differences].count("within noise")
    return f"{text} {near} of the other {len(valued) - 1} points are within noise of it."


def importance(search: Search, study: optuna.Study) -> optuna.importance.BaseImportanceEvaluator | None:
    """PED-ANOVA importance for the best tenth of the points (5 at least, half at most); None for too few points."""
    n = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
    if n < 4 or len(search.space) < 2:
        return None
    return optuna.importance.PedAnovaImportanceEvaluator(target_quantile=max(0.1, min(0.5, 5 / n)))


def figures(search: Search, study: optuna.Study) -> list[str]:
    """Optuna's figures as SVG: slices, history, importances."""
    matplotlib.use("agg")
    evaluator = importance(search, study)
    drawn = []
    plots = [partial(plot, study, target_name=search.metric.name) for plot in (plot_slice, plot_optimization_history)]
    if evaluator is not None:
        plots.append(partial(plot_param_importances, study, evaluator))
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings(action="ignore"):  # experimental, one value, ...
        for plot in plots:
            plot()
            svg = io.StringIO()
            pyplot.savefig(svg, format="svg", bbox_inches="tight", metadata={"Date": None})
            pyplot.close()
            drawn.append(svg.getvalue())
    return drawn


def markdown(search: Search, study: optuna.Study, best: FrozenTrial | None) -> str:
    """The report as Markdown, with the figure of the slices."""
    points = study.get_trials(deepcopy=False)
    valued = [point for point in points if point.state == TrialState.COMPLETE]
    evaluator = importance(search, study)
    rows = []
    for point in points:
        attrs = point.user_attrs
        words = [as_word(point.params[key]) for key in search.space]
        values = (str(point.number), attrs["status"], interval(search, point))
        rows.append([*values, *words, duration(attrs.get("seconds")), attrs["error"]])
    return template("search/search.md.j2").render(
        search=search,
        sentence=sentence(search, valued, best),
        flatters=_SELECTION_BIAS,
        command=None if best is None else command(search, best),
        valued=len(valued),
        shares=None if evaluator is None else optuna.importance.get_param_importances(study, evaluator=evaluator),
        points=sheet("points", ["point", "status", search.metric.name, *search.space, "time", "note"], rows),
    )


def page(search: Search, text: str, plots: Sequence[str]) -> str:
    """The report as one self-contained page."""
    uris = [f"data:image/svg+xml;base64,{base64.b64encode(plot.encode()).decode()}" for plot in plots]
    body = MarkdownIt("js-default").render(text)
    for uri in uris[:1]:
        body = body.replace('src="slices.svg"', f'style="width: 100%" src="{uri}"')
    return template("search/search.html.j2").render(name=search.study.name, body=body, images=uris[1:])
