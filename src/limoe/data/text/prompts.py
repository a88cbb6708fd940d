"""Names of classes and prompt templates: JSON files in two layouts, checked.

* A dataset's `classes.json`: `{"templates": ["a photo of {}"], "label_spaces": {"<space>": {"label_field": "<label>",
  "classes": [{"id": "<value of the label>", "name": "<name>"}]}}}`.
* Plain lists: `{"<space>": ["<name>", ...], "templates_<set>": ["a photo of a {}.", ...]}`; the position of a name is
  its class id. Templates may lie in a file of their own (`templates_path`), under the bare name of the set as well.
"""

import logging
import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from limoe.data.tasks.kinds import PromptSource
from limoe.data.tasks.task_files import read_object
from limoe.errors import DataError
from limoe.files import sha256

log = logging.getLogger(__name__)


class ClassList(NamedTuple):
    """Classes of one label space; `label_field` names the label that holds a class id."""

    label_field: str
    ids: list[str]
    names: list[str]
    templates: list[str]
    source: PromptSource = PromptSource()


def read_classes(
    path: str,
    *,
    label_space: str,
    label_field: str = "label",
    templates: str | Sequence[str] | None = None,
    templates_path: str | None = None,
    clean: bool = False,
    first_name: bool = False,
) -> ClassList:
    """One label space with its templates.

    Args:
        path: a file of either layout.
        label_space: name of the set of classes in the file.
        label_field: the label that holds a class id, for plain lists.
        templates: a name of a set, or a list of such names and of templates with one `{}`; None: the set `templates`.
        templates_path: where sets are looked up; None: in `path`.
        clean: lower case and no punctuation, as the reference does with names and templates.
        first_name: cut a name at its first comma, as the reference does.

    Raises:
        DataError: the file is unreadable, has no such label space or set, or has bad entries (all are listed).
    """
    content = read_object(path)
    faults: list[str] = []
    field, ids, names = _classes(path, content, label_space, label_field, faults)
    there = content if templates_path is None else read_object(templates_path)
    sentences = _templates(templates_path or path, there, templates, faults)
    if faults:
        raise DataError(f"{path}: {len(faults)} faults in {label_space}: {'; '.join(faults)}")
    if first_name:
        names = [name.partition(",")[0] for name in names]
    if clean:
        names, sentences = [cleaned(name) for name in names], [cleaned(sentence) for sentence in sentences]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        several = "%s: %d names belong to several classes (%s), which get equal scores: their images count as wrong"
        log.warning(several, path, len(repeated), ", ".join(repr(name) for name in repeated[:5]))
    chosen = "" if templates is None else f", templates {templates if isinstance(templates, str) else list(templates)}"
    files = tuple((file, sha256(Path(file))) for file in dict.fromkeys([path, templates_path or path]))
    source = PromptSource(f"{Path(path).parent.name}/{Path(path).name}: {label_space}{chosen}", files)
    return ClassList(field, ids, names, sentences, source)


def cleaned(text: str) -> str:
    """Lower case, without ASCII punctuation except `{}`, underscores as blanks, single blanks."""
    parts = text.replace("_", " ").split("{}")
    kept = "{}".join(part.translate(str.maketrans("", "", string.punctuation)) for part in parts)
    return re.sub(r"\s+", " ", kept).strip().lower()


def _classes(
    path: str, content: Mapping[str, Any], label_space: str, label_field: str, faults: list[str]
) -> tuple[Any, list[Any], list[Any]]:
    """Label field, ids and names of either layout, unchanged; errors are added to `faults`."""
    field: Any = label_field
    ids: list[Any]
    spaces = content.get("label_spaces", content)
    space = spaces.get(label_space) if isinstance(spaces, dict) else None
    if isinstance(space, list) and spaces is content:
        ids, names = [str(number) for number in range(len(space))], space
    elif isinstance(space, dict) and isinstance(space.get("classes"), list):
        field = space.get("label_field")
        if not isinstance(field, str):
            faults.append(f"label_field must be the name of a label, got {field!r:.60}")
        entries = [entry if isinstance(entry, dict) else {} for entry in space["classes"]]
        ids, names = ([entry.get(key) for entry in entries] for key in ("id", "name"))
    else:
        there = ", ".join(map(str, spaces)) if isinstance(spaces, dict) and spaces else "none"
        raise DataError(f"{path} has no label space {label_space!r} with a list of classes; there: {there}")
    if not ids:
        faults.append("there is no class")
    _check_column("id", ids, faults, once=True)
    _check_column("name", names, faults)
    return field, ids, names


def _check_column(key: str, values: Sequence[Any], faults: list[str], *, once: bool = False) -> None:
    seen: set[str] = set()
    for number, value in enumerate(values):
        if not isinstance(value, str) or not value.strip():
            faults.append(f"classes[{number}].{key} must be a text that is not empty, got {value!r:.60}")
        elif once and value in seen:
            faults.append(f"classes[{number}].{key} must occur once, got {value!r:.60} again")
        else:
            seen.add(value)


def _templates(
    path: str, content: Mapping[str, Any], chosen: str | Sequence[str] | None, faults: list[str]
) -> list[str]:
    """Templates of the sets and single templates in `chosen`, in that order; errors are added to `faults`."""
    entries = ["templates"] if chosen is None else [chosen] if isinstance(chosen, str) else list(chosen)
    found: list[str] = []
    for entry in entries:
        if "{}" in entry:
            found.append(entry)
            continue
        sentences = content.get(f"templates_{entry}", content.get(entry))
        if not isinstance(sentences, list) or not sentences:
            sets = [key.removeprefix("templates_") for key, value in content.items() if _holds_templates(value)]
            there = ", ".join(sets) or "none"
            faults.append(f"templates: {Path(path).name} has no list of templates {entry!r}; there: {there}")
            continue
        for number, sentence in enumerate(sentences):
            if not isinstance(sentence, str) or sentence.count("{}") != 1:
                faults.append(f"{entry}[{number}] must be a text with exactly one {{}}, got {sentence!r:.60}")
            else:
                found.append(sentence)
    return found


def _holds_templates(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(text, str) and "{}" in text for text in value)
