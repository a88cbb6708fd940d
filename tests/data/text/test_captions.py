import json
from collections.abc import Callable
from typing import Any

import pytest

from limoe.data.bad_samples import BadContent
from limoe.data.pairs import Description
from limoe.data.text.captions import MAX_CAPTION, clean_caption, read_caption, read_description, read_fields


def kind_of(function: Callable[..., Any], *args: bytes | str, **kwargs: Any) -> str:
    with pytest.raises(BadContent) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return caught.value.kind


def described(**fields: Any) -> Description:
    return read_description("k", text=b"from the text", fields=json.dumps(fields).encode())


def test_a_caption_without_mark_and_margin() -> None:
    assert read_caption(b"\xef\xbb\xbf  a  red circle\n") == "a  red circle"


def test_a_caption_is_cut_where_no_model_reads_on() -> None:
    assert clean_caption(" " * 50_000 + "ab" * 50_000) == "ab" * (MAX_CAPTION // 2)
    assert clean_caption("a" * (MAX_CAPTION - 1) + " b") == "a" * (MAX_CAPTION - 1)


@pytest.mark.parametrize(
    ("data", "kind"),
    [(b"", "no_caption"), (b" \xc2\xa0\n", "no_caption"), (b"caf\xe9", "bad_text"), (bytes(2**24 + 1), "too_large")],
)
def test_captions_that_cannot_be_used(data: bytes, kind: str) -> None:
    assert kind_of(read_caption, data) == kind


@pytest.mark.parametrize("data", [b"{", b"[1]", b"null", b"\xff{}", b'{"a": ' + b"9" * 5000 + b"}", b"[" * 100_000])
def test_json_that_cannot_be_used(data: bytes) -> None:
    assert kind_of(read_fields, data) == ("bad_text" if data[0] == 0xFF else "bad_json")


def test_captions_of_the_json_go_before_the_text() -> None:
    assert described(captions=["one", " ", " two "]).captions == ["one", "two"]
    assert described(caption="one").captions == ["one"]
    empty: list[dict[str, Any]] = [{}, {"captions": []}, {"captions": [""]}, {"caption": None}, {"captions": None}]
    for nothing in empty:
        assert described(**nothing).captions == ["from the text"]


@pytest.mark.parametrize("fields", [{"captions": "one"}, {"captions": ["one", 2]}, {"caption": 3}])
def test_captions_of_another_type_are_bad(fields: dict[str, int | list[int | str] | str]) -> None:
    assert kind_of(described, **fields) == "bad_json"


def test_half_a_character_is_bad_wherever_it_stands() -> None:
    for fields in ({"captions": ["a \ud800"]}, {"caption": "\udfff"}, {"vendor": "\ud83d"}):
        assert kind_of(described, **fields) == "bad_text"
    assert described(caption="\U0001f600").captions == ["\U0001f600"]


def test_other_texts_are_labels() -> None:
    found = described(caption="one", colour="red", size=3, tags=["x"])
    assert (found.labels, found.key) == ({"colour": "red"}, "k")


def test_no_caption_at_all() -> None:
    assert kind_of(read_description, "k") == "no_caption"
    assert kind_of(read_description, "k", fields=b'{"label": "circle"}') == "no_caption"
    assert read_description("k", text=b"a").captions == ["a"]
