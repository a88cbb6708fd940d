"""Success rate over steps of several runs, one line per run, one panel per modality, coloured by the set of losses.

python experiments/text_collapse/plot.py                                         draws success.svg from results.csv
python experiments/text_collapse/plot.py logs/text_collapse/multiruns/RUN/*/     writes results.csv of these runs first

Prints the mean over the last quarter of the steps.
"""

import csv
import json
import statistics
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import yaml

HERE = Path(__file__).parent
COLUMNS = ("losses", "seed", "modality", "step", "success_rate")
PRESETS = {2: "classic", 6: "limoe", 7: "all"}  # number of active losses -> name
COLOURS = {"classic": "C1", "limoe": "C0", "all": "C2"}


def read(run: Path) -> list[tuple[str, int, str, int, str]]:
    """Rows of results.csv: the success rate by modality and step, mean over layers."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    rates: dict[tuple[str, int], list[float]] = {}
    for line in (run / "routing" / "health.jsonl").read_text().splitlines():
        row = json.loads(line)
        rates.setdefault((row["modality"], row["step"]), []).append(row["success_rate"])
    losses, seed = PRESETS[len(config["aux_loss"])], config["seed"]
    return [(losses, seed, *place, f"{statistics.mean(found):.4f}") for place, found in sorted(rates.items())]


def draw(rows: list[dict[str, str]]) -> None:
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True)
    for panel, modality in zip(panels, ("image", "text"), strict=True):
        runs = sorted({(row["losses"], row["seed"]) for row in rows if row["modality"] == modality})
        for losses, seed in runs:
            own = [row for row in rows if (row["losses"], row["seed"], row["modality"]) == (losses, seed, modality)]
            steps = [int(row["step"]) for row in own]
            found = [float(row["success_rate"]) for row in own]
            panel.plot(steps, found, color=COLOURS[losses], label=losses, lw=1.2)
            late = [rate for step, rate in zip(steps, found, strict=True) if step > 0.75 * max(steps)]
            print(f"{losses:8} seed {seed} {modality:5} success over the last quarter {statistics.mean(late):.3f}")
        panel.set(title=f"{modality} tokens", xlabel="step")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("success rate (share with a slot)")
    handles = {label: line for line, label in zip(*panels[0].get_legend_handles_labels(), strict=True)}
    panels[1].legend(handles.values(), handles.keys(), frameon=False)
    figure.tight_layout()
    plt.rcParams["svg.hashsalt"] = "limoe"
    figure.savefig(HERE / "success.svg", metadata={"Date": None})


def main(folders: list[str]) -> None:
    if folders:
        with (HERE / "results.csv").open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *(row for folder in folders for row in read(Path(folder)))])
    with (HERE / "results.csv").open(newline="") as file:
        draw(list(csv.DictReader(file)))


if __name__ == "__main__":
    main(sys.argv[1:])
