"""Both layouts of class names and templates, what is cleaned, and what is refused."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from limoe.data.text.prompts import cleaned, read_classes
from limoe.errors import DataError

GOOD = {
    "templates": ["a photo of {}", "{}"],
    "label_spaces": {
        "pets": {"label_field": "kind", "classes": [{"id": "c", "name": "cat"}, {"id": "d", "name": "dog"}]}
    },
}
PLAIN = {
    "classes": ["Tench, Tinca", "great white_shark"],
    "templates_one": ["A photo of {}."],
    "templates_two": ["art of {}", "{}!"],
    "source": "by hand",
}


def classes_file(path: Path, content: dict[str, Any] | str) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def changed(**changes: Any) -> dict[str, Any]:
    return GOOD | {"label_spaces": {"pets": GOOD["label_spaces"]["pets"] | changes}}


def test_the_layout_of_a_dataset(tmp_path: Path) -> None:
    path = classes_file(tmp_path / "classes.json", GOOD)
    classes = read_classes(path, label_space="pets")
    assert classes[:4] == ("kind", ["c", "d"], ["cat", "dog"], ["a photo of {}", "{}"])
    assert classes.source.name == f"{tmp_path.name}/classes.json: pets"
    assert classes.source.files == ((path, hashlib.sha256(json.dumps(GOOD).encode()).hexdigest()),)


def test_the_layout_of_plain_lists(tmp_path: Path) -> None:
    path = classes_file(tmp_path / "names.json", PLAIN)
    classes = read_classes(path, label_space="classes", templates=["two", "just {}"])
    assert classes[:4] == ("label", ["0", "1"], PLAIN["classes"], ["art of {}", "{}!", "just {}"])
    assert classes.source.name.endswith("names.json: classes, templates ['two', 'just {}']")
    assert read_classes(path, label_space="classes", templates="one", label_field="class")[0] == "class"


def test_templates_of_a_file_of_their_own(tmp_path: Path) -> None:
    names, sentences = classes_file(tmp_path / "n.json", {"pets": ["cat"]}), tmp_path / "t.json"
    classes_file(sentences, {"pets": ["a {}, a type of pet."]})
    classes = read_classes(names, label_space="pets", templates="pets", templates_path=str(sentences))
    assert classes.names == ["cat"] and classes.templates == ["a {}, a type of pet."]
    assert [path for path, _ in classes.source.files] == [names, str(sentences)]


def test_cleaned_as_the_reference_does(tmp_path: Path) -> None:
    assert cleaned("  A  photo_of the {}, (seen)!") == "a photo of the {} seen"
    assert cleaned("{curly} {}") == "curly {}"
    path = classes_file(tmp_path / "names.json", PLAIN)
    classes = read_classes(path, label_space="classes", templates="one", clean=True, first_name=True)
    assert classes.names == ["tench", "great white shark"] and classes.templates == ["a photo of {}"]
    whole = read_classes(path, label_space="classes", templates="one", clean=True)
    assert whole.names[0] == "tench tinca"


def test_repeated_names_are_told_and_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    repeated = changed(classes=[{"id": "1", "name": "crane"}, {"id": "2", "name": "crane"}, {"id": "3", "name": "cat"}])
    classes = read_classes(classes_file(tmp_path / "classes.json", repeated), label_space="pets")
    assert classes.names == ["crane", "crane", "cat"]
    assert (
        "1 names belong to several classes ('crane')" in caplog.messages[0] and "count as wrong" in caplog.messages[0]
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not readable as JSON"),
        ("[1, 2]", "must hold a JSON object, got [1, 2]"),
        ({}, "has no label space 'pets' with a list of classes; there: none"),
        (
            {"label_spaces": {"cars": {}, "boats": {}}},
            "has no label space 'pets' with a list of classes; there: cars, boats",
        ),
        (changed(label_field=None), "label_field must be the name of a label, got None"),
        (changed(classes=[]), "1 faults in pets: there is no class"),
        (changed(classes=["cat"]), "classes[0].id must be a text that is not empty, got None"),
        (
            changed(classes=[{"id": "c", "name": "cat"}, {"id": "c", "name": "dog"}]),
            "classes[1].id must occur once, got 'c' again",
        ),
        (
            changed(classes=[{"id": "c", "name": "cat"}, {"id": "d", "name": " "}]),
            "classes[1].name must be a text that is not empty, got ' '",
        ),
        (GOOD | {"templates": []}, "classes.json has no list of templates 'templates'; there: none"),
        (GOOD | {"templates": ["a photo"]}, "templates[0] must be a text with exactly one {}, got 'a photo'"),
        (GOOD | {"templates": ["{}", 3]}, "templates[1] must be a text with exactly one {}, got 3"),
    ],
)
def test_bad_classes_are_told_in_one_line(tmp_path: Path, content: dict[str, Any] | str, message: str) -> None:
    with pytest.raises(DataError) as error:
        read_classes(classes_file(tmp_path / "classes.json", content), label_space="pets")
    assert message in str(error.value)
    assert "classes.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_set_is_told_with_those_there(tmp_path: Path) -> None:
    path = classes_file(tmp_path / "names.json", PLAIN)
    with pytest.raises(DataError, match=r"has no list of templates 'three'; there: one, two"):
        read_classes(path, label_space="classes", templates="three")


def test_a_missing_file_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"classes\.json does not exist; set LIMOE_DATA_DIR"):
        read_classes(str(tmp_path / "classes.json"), label_space="pets")


def test_all_faults_of_a_file_at_once(shared: Path) -> None:
    with pytest.raises(DataError) as error:
        read_classes(str(shared / "data" / "corrupt" / "table" / "classes_bad.json"), label_space="x")
    for fault in (
        "4 faults in x",
        "classes[1].id must occur once, got 'a' again",
        "classes[2].name must be a text that is not empty, got ''",
        "templates[1] must be a text with exactly one {}, got 'no placeholder'",
        "templates[2] must be a text with exactly one {}, got '{} and {}'",
    ):
        assert fault in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_without_templates_and_classes(shared: Path) -> None:
    path = str(shared / "data" / "corrupt" / "table" / "classes_no_templates.json")
    with pytest.raises(DataError, match=r"classes_no_templates\.json has no label space 'x' .* there: none"):
        read_classes(path, label_space="x")


def test_clips_imagenet_names_and_templates(shared: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = str(shared / "data" / "zeroshot-prompts" / "imagenet1k.json")
    best = read_classes(path, label_space="classes", templates=["simple_7", "{}"], clean=True, first_name=True)
    assert (len(best.ids), len(best.names), len(best.templates)) == (1000, 1000, 8)
    assert best.ids[:2] == ["0", "1"] and best.names[:2] == ["tench", "goldfish"]
    assert best.templates[0] == "itap of a {}" and best.templates[-1] == "{}"
    assert "2 names belong to several classes ('missile', 'sunglasses')" in caplog.messages[0]
    paper = read_classes(path, label_space="classes", templates=["openai_80", "{}"])
    assert len(paper.templates) == 81


def test_the_other_names_and_templates(shared: Path) -> None:
    folder = shared / "data" / "zeroshot-prompts"
    found = read_classes(
        str(folder / "other_classes.json"),
        label_space="caltech101",
        templates="caltech101",
        templates_path=str(folder / "other_templates.json"),
    )
    assert (len(found.names), len(found.templates)) == (102, 34)
