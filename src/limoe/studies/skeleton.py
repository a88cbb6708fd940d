"""A new study or search to fill in."""

import shutil
from pathlib import Path

from limoe.errors import ConfigError

_README = """\
# {name}

    limoe {verb} {folder} dry_run=true
    limoe {verb} {folder}

What it asks and what it tries is in `{verb}.yaml`; what came out, with the report, in `results/`.
"""


def write_skeleton(folder: Path, *, verb: str) -> None:
    """`<verb>.yaml`, a copy of `skeletons/<verb>.yaml`, and README.md: what `limoe <verb> new FOLDER` writes and names.

    Raises:
        ConfigError: the folder exists already.
    """
    settings, readme = folder / f"{verb}.yaml", folder / "README.md"
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise ConfigError(f"{folder} exists already; choose another name") from error
    shutil.copyfile(Path(__file__).parent / "skeletons" / settings.name, settings)
    readme.write_text(_README.format(name=folder.name, folder=folder, verb=verb), encoding="utf-8")
    for path in (settings, readme):
        print(f"written: {path}")
