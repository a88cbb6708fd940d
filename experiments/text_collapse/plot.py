"""Success rate over steps of several runs, one line per run, one panel per modality, coloured by the set of losses.

python experiments/text_collapse/plot.py logs/text_collapse/multiruns/<run id>/*/
writes results.csv and success.svg beside this file and prints the mean over the last quarter of the steps.
"""

import csv
import json
import statistics
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import yaml

HERE = Path(__file__).parent
PRESETS = {2: "classic", 6: "limoe", 7: "all"}  # number of active losses -> name
COLOURS = {"classic": "#D55E00", "limoe": "#0072B2", "all": "#009E73"}


def read(run: Path) -> tuple[str, int, dict[str, dict[int, float]]]:
    """Name of the losses, seed, and per modality the success rate by step, mean over layers."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    rates: dict[str, dict[int, list[float]]] = {"image": {}, "text": {}}
    for line in (run / "routing" / "health.jsonl").read_text().splitlines():
        row = json.loads(line)
        rates[row["modality"]].setdefault(row["step"], []).append(row["success_rate"])
    means = {m: {step: statistics.mean(v) for step, v in by_step.items()} for m, by_step in rates.items()}
    return PRESETS[len(config["aux_loss"])], config["seed"], means


def main(folders: list[str]) -> None:
    runs = [read(Path(folder)) for folder in folders]
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True)
    rows = []
    for panel, modality in zip(panels, ("image", "text"), strict=True):
        for losses, seed, means in sorted(runs, key=lambda run: run[:2]):
            curve = means[modality]
            panel.plot(*zip(*sorted(curve.items()), strict=True), color=COLOURS[losses], label=losses, lw=1.2)
            rows += [(losses, seed, modality, step, f"{rate:.4f}") for step, rate in sorted(curve.items())]
            late = [rate for step, rate in curve.items() if step > 0.75 * max(curve)]
            print(f"{losses:8} seed {seed} {modality:5} success over the last quarter {statistics.mean(late):.3f}")
        panel.set(title=f"{modality} tokens", xlabel="step")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("success rate (share with a seat)")
    handles = {label: line for line, label in zip(*panels[0].get_legend_handles_labels(), strict=True)}
    panels[1].legend(handles.values(), handles.keys(), frameon=False)
    figure.tight_layout()
    figure.savefig(HERE / "success.svg")
    with (HERE / "results.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("losses", "seed", "modality", "step", "success_rate"), *rows])


if __name__ == "__main__":
    main(sys.argv[1:])
