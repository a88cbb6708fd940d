"""The report: built from whole and broken run folders, true to its numbers, and harmless whatever the run holds."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image

from limoe.errors import DataError
from limoe.reporting import figures
from limoe.reporting.report import build
from limoe.runs.folder import read_run
from tests.helpers.fake_run import write_csv, write_run

HEALTH = (
    '{"step": 0, "layer": 1, "modality": "text", "success_rate": 1, "load": [0.5, 0.5], '
    '"local_entropy": 0.1, "global_entropy": 0.2, "dead_experts": 0}'
)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty figures, for tests about everything else: drawing takes most of the time."""
    for name in ("lines_plot", "share_plot"):
        monkeypatch.setattr(figures, name, lambda *_, **__: "data:image/svg+xml,%3Csvg/%3E")


class Page(HTMLParser):
    """Tags with their attributes, and the text people see."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def figures(self) -> list[str]:
        sources = [str(attrs["src"]) for tag, attrs in self.tags if tag == "img"]
        return [unquote(source.split(",", 1)[1]) for source in sources if source.startswith("data:image/svg+xml,")]

    def count(self, tag: str, **attrs: str) -> int:
        return sum(name == tag and attrs.items() <= found.items() for name, found in self.tags)


def assert_harmless(page: Page) -> None:
    """Nothing runs, nothing is fetched, nothing leads away."""
    allowed = {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "header",
        "h1",
        "h2",
        "p",
        "span",
        "strong",
        "div",
        "ul",
    }
    allowed |= {
        "ol",
        "li",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "code",
        "wbr",
        "img",
        "details",
        "summary",
        "pre",
    }
    for tag, attrs in page.tags:
        assert tag in allowed
        assert not [name for name in attrs if name.startswith("on") or name in ("href", "action", "srcdoc", "style")]
        assert tag != "img" or re.match(r"data:image/(png;base64,[\w+/=]+|svg\+xml,[^<>&\"']+)$", str(attrs["src"]))
    for svg in page.figures:
        assert "<script" not in svg and "@import" not in svg and "url(http" not in svg
        assert not re.findall(r'href="(?!#)', svg)


def test_a_complete_run(tmp_path: Path) -> None:
    page = Page(build(write_run(tmp_path / "run")))
    assert_harmless(page)
    assert "Finished after 2 min 31 s" in page.text
    assert "shapes: 47.5% (top-1), 9.5 × chance (5.0%)" in page.text  # 0.475 / 0.05 = 9.5
    # Loss, accuracy, recall; 2 layers of shares; 3 quantities x 2 modalities; 1 aux loss.
    assert len(page.figures) == 3 + 2 + 6 + 1
    assert page.count("div", **{"class": "card"}) == 2
    assert "For 1 of these 2 the correct one is first" in page.text
    assert page.count("li", **{"class": "right"}) == 2  # marked wherever it stands
    assert "abc1234" in page.text and "torch: 2.13.0" in page.text and "moe_layers: [1, 3]" in page.text
    assert page.count("div", **{"class": "problems"}) == 0
    policy = page.count("meta", content="default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    assert policy == 1


def test_normalised_losses_and_gradient_shares_are_one_figure_each(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    names = [f"train/{kind}/{name}" for kind in ("aux_normalised", "grad_share", "aux_weighted") for name in "ab"]
    write_csv(run / "csv" / "metrics.csv", [{"step": step} | dict.fromkeys(names, 0.5) for step in (0, 1)])
    images = figures.aux_figures(read_run(run))
    assert [image.alt for image in images] == [
        "Normalised auxiliary losses over training steps; 1 is balanced",
        "Share of each loss in the routers' gradient over training steps",
    ]


def test_alarms_stand_beside_the_routing(tmp_path: Path, undrawn: None) -> None:
    run = write_run(tmp_path / "run")
    alarm = {"layer": 3, "modality": "text", "message": "text collapses in layer 3 <b>since</b> step 40"}
    (run / "routing" / "alarms.jsonl").write_text(json.dumps(alarm))
    page = Page(build(run))
    assert_harmless(page)
    assert "Collapse alarms" in page.text and "text collapses in layer 3 <b>since</b> step 40" in page.text
    assert "Collapse alarms" not in Page(build(write_run(tmp_path / "quiet"))).text


def test_a_dense_run_misses_nothing(tmp_path: Path) -> None:
    page = Page(build(write_run(tmp_path / "run", dense=True)))
    assert page.count("div", **{"class": "problems"}) == 0
    assert "a dense run has no router" in page.text and "Auxiliary losses" not in page.text
    assert len(page.figures) == 3


def test_written_elsewhere_and_nothing_left_behind(tmp_path: Path, undrawn: None) -> None:
    run = write_run(tmp_path / "run")
    before = sorted(run.rglob("*"))
    assert build(run, out=tmp_path / "new" / "page.html") == tmp_path / "new" / "page.html"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]
    assert sorted(run.rglob("*")) == before


@pytest.mark.parametrize(
    "hostile",
    [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "</style><svg onload=alert(1)>",
        "{{ 7 * 7 }}{% raw %}",
        "javascript:alert(1)",
        "<!--",
        "$\\frac{1}$ \u202e \x00 \ud800",
    ],
)
def test_strings_of_the_run_stay_text(tmp_path: Path, undrawn: None, hostile: str) -> None:
    run = write_run(tmp_path / "run", caption=hostile, command=hostile, status=hostile, versions={hostile: hostile})
    (run / "config.yaml").write_text(f"note: {hostile}", encoding="utf-8", errors="replace")
    page = Page(build(run))
    assert_harmless(page)
    assert "{{ 7 * 7 }}" in page.text or "49" not in page.text
    cleaned = hostile.replace("\x00", "\ufffd").replace("\ud800", "?")
    assert page.text.replace("\x00", "\ufffd").count(cleaned) >= 6  # status, command, config, two truths, two captions


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("run.json", None, "run.json: No such file"),
        ("run.json", "{", "run.json: not a JSON object"),
        ("run.json", "[" * 100_000, "run.json: not a JSON object"),
        ("run.json", '{"metrics": [1], "chance": "x", "seconds": "y", "versions": 3}', "status unknown"),
        ("config.yaml", None, "config.yaml: No such file"),
        ("csv/metrics.csv", None, "csv/metrics.csv: No such file"),
        ("csv/metrics.csv", "", "csv/metrics.csv: holds no numbers"),
        ("csv/metrics.csv", "a,b\n1,2\n", "csv/metrics.csv: holds no numbers"),
        ("csv/metrics.csv", "step,a\n1,0.5\n2," + "9" * 200_000, "field larger than field limit"),
        ("routing/health.jsonl", None, "routing/health.jsonl: missing"),
        ("routing/health.jsonl", '{"step": 1}\n{"st', "2 of 2 lines"),
        ("routing/health.jsonl", HEALTH.replace("0.5, 0.5", "NaN, 0.5"), "1 of 1 lines"),
        ("samples/samples.json", None, "samples/samples.json: No such file"),
        ("samples/samples.json", '{"items": [1, {"image": 3}]}', "an entry can't be read"),
        ("samples/000.png", None, "samples/000.png: [Errno 2]"),
        ("samples/000.png", "no image", "samples/000.png: cannot identify"),
    ],
)
def test_a_broken_part_is_named_and_the_rest_is_there(
    tmp_path: Path, undrawn: None, name: str, content: str | None, said: str
) -> None:
    run = write_run(tmp_path / "run")
    (run / name).unlink()
    if content is not None:
        (run / name).write_text(content)
    page = Page(build(run))
    assert_harmless(page)
    assert said.lower() in page.text.lower()
    assert "How it was made" in page.text


def test_the_torn_last_line_of_a_killed_run(tmp_path: Path, undrawn: None) -> None:
    run = write_run(tmp_path / "run", status="running")
    with (run / "routing" / "health.jsonl").open("a") as file:
        file.write('{"step": 20, "lay')
    with (run / "csv" / "metrics.csv").open("a") as file:
        file.write("20,1.")
    page = Page(build(run))
    assert "1 of 9 lines can't be read" in page.text
    assert "has not ended, or was killed" in page.text


def test_a_failed_run_says_why(tmp_path: Path, undrawn: None) -> None:
    page = Page(build(write_run(tmp_path / "run", status="failed", error="loss is nan", metrics={})))
    assert "the run failed: loss is nan" in page.text
    assert "Failed after 2 min 31 s" in page.text
    assert "47.5%" in page.text  # run.json has no final values: the last of the csv, 19 / 40, stands in


@pytest.mark.parametrize("name", [".", "missing"])
def test_what_is_no_run_folder_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="is not a run folder") as error:
        build(tmp_path / name)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_image_outside_of_the_run_is_not_read(tmp_path: Path, undrawn: None) -> None:
    run = write_run(tmp_path / "run")
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    item = {"image": "../../secret.png", "truth": "x", "top": []}
    (run / "samples" / "samples.json").write_text(json.dumps({"task": "t", "items": [item]}))
    assert "image missing" in Page(build(run)).text
