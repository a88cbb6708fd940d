"""The page: true to the record, harmless whatever captions say, and about any router."""

import base64
import io
import json
import re
from functools import partial
from html.parser import HTMLParser
from typing import Any

import pytest
from PIL import Image

from limoe.atlas import page
from limoe.atlas.page import headline, palette, points, render, share
from limoe.atlas.settings import Settings
from limoe.atlas.survey import Survey, survey
from limoe.models.encoders import ImageEncoder, TextEncoder
from limoe.models.two_tower import TwoTower
from limoe.routing.expert_choice import ExpertChoiceRouter
from limoe.routing.fixed import HashRouter
from limoe.routing.priority import bpr
from limoe.routing.soft import SoftRouter
from limoe.routing.token_choice import TopKRouter
from tests.helpers import planted

ABOUT = {"name": "run", "step": 7, "source": "the validation split", "facts": {"command": "limoe atlas run"}}
SETTINGS: dict[str, Any] = {
    "pairs": 3,
    "seed": 0,
    "patches": 12,
    "words": 12,
    "min_occurrences": 1,
    "examples": 2,
    "batch_size": 3,
}
SETTINGS |= {"capacity_factor": "run", "slot_priority": "run", "knock_out_images": 5, "knock_out_templates": 1}


def look(model: Any, *, knock_out: bool = True, **changes: Any) -> Survey:
    data = planted.data()
    chosen = ("words", planted.task()) if knock_out else None
    return survey(model, data, planted.Scenes(), task=chosen, settings=Settings(**{**SETTINGS, **changes}))


class Page(HTMLParser):
    """Tags with their attributes, and the text people see."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def decoded(uri: str | None) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(str(uri).removeprefix("data:image/webp;base64,"))))


def test_the_page_shows_what_the_record_says() -> None:
    found = look(planted.model())
    shown = Page(render(found, about=ABOUT))
    assert "4 experts in 1 sparse layer, 1 of them text experts." in shown.text
    assert "Step 7; 3 of 3 pairs of the validation split" in shown.text
    assert "Layer 0: 1 text experts" in shown.text and "text expert" in shown.text
    (bars,) = [a for _, a in shown.tags if a.get("class") == "bars"]
    assert "Expert 0: 75 % image, 25 % text, 20.0 % of all tokens." in str(bars["aria-label"])
    assert "cat 100 % of 3" in shown.text and "red 100 % of 1" in shown.text
    assert "No patch is routed here." in shown.text and "Not chosen" not in shown.text  # expert 3 gets words alone
    knocked = next(row for row in found.record["knock_out"]["layers"][0] if row["expert"] == 2)
    assert f"{points(knocked['difference'])} ({points(knocked['low'])} to {points(knocked['high'])})" in shown.text
    assert "Zero-shot top-1 on 5 images of words (3 classes, 1 prompt template)" in shown.text


def test_patches_are_cut_out_of_their_images() -> None:
    shown = Page(render(look(planted.model()), about=ABOUT))
    patches = [image for image in shown.all("img") if str(image["alt"]).startswith("patch")]
    assert [decoded(patch["src"]).size for patch in patches] == [(4, 4)] * 3
    assert [decoded(patch["src"]).getpixel((0, 0)) for patch in patches] == [*planted.COLOURS.values()]
    assert patches[2]["alt"] == f"patch at row 2, column 2 of “{caption(2)}”"
    assert str(patches[2]["title"]).endswith("6 identical patches")


def caption(expert: int) -> str:
    """Of the image whose patch stands for an expert."""
    record = look(planted.model(), knock_out=False).record
    return record["captions"][record["layers"][0]["experts"][expert]["patches"][0]["image"]]


def test_examples_are_coloured_by_expert() -> None:
    found = look(planted.model())
    first = found.record["examples"][0]
    scene = planted.SCENES[found.record["positions"][0]]
    experts = [["RGB".index(colour) for colour in scene[0][i : i + 2]] for i in (0, 2)]
    assert first["image"][0] == experts and first["caption"] == scene[1]
    assert first["text"][0] == [planted.EXPERT_OF[word] for word in [*scene[1].split(), ""]]
    shown = Page(render(found, about=ABOUT))
    drawn = [str(rect["class"]) for rect in shown.all("rect")][:4]
    assert drawn == [f"e{expert}" for row in experts for expert in row]
    assert len(shown.all("rect")) == 8  # two examples of four patches, one layer


def test_captions_can_do_no_harm() -> None:
    found = look(planted.model(), knock_out=False)
    found.record["captions"] = ["<script>alert(1)</script>\"'"] * 3
    for example in found.record["examples"]:
        example["caption"], example["tokens"] = "<script>", ["<script>"] * len(example["tokens"])
    html = render(found, about={**ABOUT, "name": "<script>"})
    assert "<script" not in html and "&lt;script&gt;" in html
    shown = Page(html)
    assert all(str(a["src"]).startswith("data:image/") for a in shown.all("img"))
    assert all(str(a["href"]).startswith("#") for a in shown.all("a"))
    assert all(a.get("alt") for a in shown.all("img"))
    assert not [a for _, a in shown.tags if any(name.startswith("on") for name in a)]


def test_parts_can_be_left_out() -> None:
    found = look(planted.model(), knock_out=False, capacity_factor=None, examples=0, patches=0)
    assert found.record["drops"] is None and found.record["knock_out"] is None
    shown = Page(render(found, about=ABOUT))
    assert "Not measured (knock_out=null, or the run has no zero-shot task)." in shown.text
    assert "No expert has a capacity" in shown.text and "coloured by expert" not in shown.text


def two_tower() -> TwoTower:
    router = partial(TopKRouter, priority=bpr)
    shape = {"width": 8, "depth": 1, "num_heads": 2, "mlp_dim": 16, "num_experts": 4, "router": router}
    encoders: dict[str, Any] = {"image": partial(ImageEncoder, patch_size=4, moe_layers=(0,), **shape)}
    encoders["text"] = partial(TextEncoder, moe_layers=(0,), **shape)
    return TwoTower(**encoders, image_size=8, vocab_size=300, text_length=4).eval()


@pytest.mark.parametrize(
    ("model", "note"),
    [
        (partial(planted.model, k=2), "A token has 2 experts."),
        (partial(planted.model, eval_capacity_factor=2.0), "limits the capacity in evaluation too (factor 2.0)"),
        (partial(planted.model, router=ExpertChoiceRouter), "Experts choose tokens here"),
        (partial(planted.model, router=SoftRouter, slots_per_expert=1), "All experts work for all tokens"),
        (partial(planted.model, router=HashRouter, priority=bpr), "This router learns nothing"),
        (two_tower, "image tower"),
    ],
)
def test_any_router_has_an_atlas(model: Any, note: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "depth_figures", lambda _: [])  # drawing takes most of the time
    found = look(model())
    shown = Page(render(found, about=ABOUT))
    assert note in shown.text
    json.dumps(found.record, allow_nan=False)
    for layer in found.record["layers"]:
        for name in layer["statistics"]:
            assert sum(e["of_modality"][name] for e in layer["experts"]) == pytest.approx(1)
        words = [w for e in layer["experts"] for w in e.get("words_by_count", ())]
        taken = sum(word["count"] for word in words)
        assert taken <= 8 * layer["k"] and ("text" not in layer["statistics"] or taken > 0)


def test_an_expert_without_any_token_is_named() -> None:
    """Without a cat no token chooses expert 3."""
    scenes = planted.Scenes((("RRGB", "red"), ("GGBB", "dog")))
    found = survey(planted.model(), planted.data(scenes), scenes, task=None, settings=Settings(**SETTINGS))
    shown = Page(render(found, about=ABOUT))
    assert "Not chosen: 3." in shown.text
    assert len([a for _, a in shown.tags if a.get("class") == "expert"]) == 3


def test_a_survey_is_the_same_every_time() -> None:
    assert look(planted.model()).record["drops"] == look(planted.model()).record["drops"]
    one, two = (look(planted.model(), knock_out=False).record["layers"] for _ in range(2))
    assert one == two


def test_headline_without_and_with_a_knock_out() -> None:
    experts = [{"is_text_expert": True}, {"is_text_expert": False}]
    layers = [{"layer": 3, "name": "layer 3", "experts": experts, "statistics": {"image": {}, "text": {}}}]
    assert headline({"layers": layers, "knock_out": None}) == "2 experts in 1 sparse layer, 1 of them text experts."
    rows = [{"expert": e, "difference": d, "low": d - 0.01, "high": d + 0.01} for e, d in ((0, 0.0), (1, -0.033))]
    loss = headline({"layers": layers, "knock_out": {"layers": {3: rows}}}).partition(". ")[2]
    assert loss == "Largest loss without a single one: expert 1 of layer 3, −3.3 points of top-1 (−4.3 to −2.3)."
    layers[0]["statistics"] = {"text": {}}
    assert headline({"layers": layers, "knock_out": None}) == "2 experts in 1 sparse layer."


def test_numbers_as_text() -> None:
    assert [share(x) for x in (0.0, 0.001, 0.005, 0.126, 1.0, None)] == ["0 %", "< 1 %", "0 %", "13 %", "100 %", "–"]
    assert share(0.0004, 1) == "< 0.1 %" and share(0.0126, 1) == "1.3 %"
    assert [points(x) for x in (0.0123, -0.0123, 0.0, -0.0004)] == ["+1.2", "−1.2", "0.0", "0.0"]


def test_colours_are_different_and_a_longer_list_begins_like_a_shorter_one() -> None:
    assert len(set(palette(64))) == 64 and palette(64)[:8] == palette(8)
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in palette(64))
    assert palette(1) == palette(8)[:1]
