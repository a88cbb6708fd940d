"""Mix, patches and words of every expert, counted by hand on the planted model."""

import pytest
import torch

from limoe.atlas.collect import as_pixels, load, route, sparse_layers
from limoe.atlas.experts import add_patches, add_words, layer_record
from limoe.atlas.patches import PatchGrid
from limoe.atlas.words import WordCounts
from limoe.types import TEXT
from tests.helpers import planted
from tests.helpers.builders import router_output


@pytest.fixture
def record() -> dict:
    data, model = planted.data(), planted.model()
    (batch,) = load(data, planted.Scenes(), batch_size=3)
    routing = route(model, [batch])
    found = layer_record(sparse_layers(model, routing)[0], routing[0])
    grid = PatchGrid(as_pixels(batch.images, data.eval_transform), tokens=4)
    add_patches(found, routing[0], grid, pairs=3, count=12)
    words = WordCounts(batch.text_ids, batch.text_mask, tokenizer=planted.tokenizer())
    add_words(found, routing[0], words, pairs=3, count=12, minimum=1)
    return found


def test_whose_tokens_an_expert_gets(record: dict) -> None:
    """12 patches: 3 red, 3 green, 6 blue. 8 words: red, dog, 3 ends, 3 cats."""
    experts = record["experts"]
    image, text = ([e["of_expert"][name] for e in experts] for name in ("image", "text"))
    assert image == pytest.approx([3 / 4, 3 / 4, 6 / 9, 0])
    assert text == pytest.approx([1 / 4, 1 / 4, 3 / 9, 1])
    assert [e["share_of_all"] for e in experts] == pytest.approx([4 / 20, 4 / 20, 9 / 20, 3 / 20])
    assert [e["of_modality"]["text"] for e in experts] == pytest.approx([1 / 8, 1 / 8, 3 / 8, 3 / 8])
    assert [e["of_modality"]["image"] for e in experts] == pytest.approx([3 / 12, 3 / 12, 6 / 12, 0])


def test_text_experts_are_those_of_the_statistics(record: dict) -> None:
    assert [e["is_text_expert"] for e in record["experts"]] == [False, False, False, True]
    assert record["statistics"]["text"]["own_experts"] == 1
    assert (record["router"], record["k"]) == ("TopKRouter", 1)
    assert record["statistics"]["image"]["top_gate"]["50%"] == pytest.approx(0.794, abs=1e-3)


def test_patches_of_an_expert(record: dict) -> None:
    """All blue patches look alike, so one stands for six."""
    patches = [[(p["image"], p["row"], p["column"], p["copies"]) for p in e["patches"]] for e in record["experts"]]
    assert patches == [[(0, 0, 0, 3)], [(0, 1, 0, 3)], [(0, 1, 1, 6)], []]


def test_words_of_an_expert(record: dict) -> None:
    words = [[(w["token"], w["count"], w["occurrences"]) for w in e["words_by_count"]] for e in record["experts"]]
    assert words == [[("red", 1, 1)], [("dog", 1, 1)], [("<eos>", 3, 3)], [("cat", 3, 3)]]
    assert [e["words_by_share"] for e in record["experts"]] == [e["words_by_count"] for e in record["experts"]]


def test_rare_words_and_the_usual_are_left_out() -> None:
    """Of `red` and `dog` there is one each. An expert that gets half of everything is typical for nothing."""
    logits = torch.tensor([[1.0, 0], [1.0, 0], [0, 1.0], [0, 1.0]]) * 9
    ids, mask = torch.tensor([[1, 1, 2, 3]]), torch.ones(1, 4, dtype=torch.bool)
    routed = router_output(logits, modality=torch.full((4,), TEXT))
    record = {"experts": [{"expert": e, "of_modality": {"text": 0.5}} for e in range(2)]}
    words = WordCounts(ids, mask, tokenizer=planted.tokenizer())
    add_words(record, routed, words, pairs=1, count=9, minimum=2)
    assert [len(e["words_by_count"]) for e in record["experts"]] == [1, 0]
    record["experts"][0]["of_modality"]["text"] = 1.0
    add_words(record, routed, words, pairs=1, count=9, minimum=1)
    assert [len(e["words_by_share"]) for e in record["experts"]] == [0, 2]
