"""Templates of a new study or search (`limoe study new`, `limoe search new`)."""

import shutil
from pathlib import Path

from limoe.errors import ConfigError

_README = """\
# {name}

    limoe {command} {folder} dry_run=true
    limoe {command} {folder}

The question and the variants or values are in `{command}.yaml`, the results and the report in `results/`.
"""


def write_skeleton(folder: Path, *, command: str) -> None:
    """Write `<command>.yaml`, a copy of that in `skeletons/`, and README.md for `limoe <command> new FOLDER`.

    Raises:
        ConfigError: the folder exists already.
    """
    settings, readme = folder / f"{command}.yaml", folder / "README.md"
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise ConfigError(f"{folder} exists already; choose another name") from error
    shutil.copyfile(Path(__file__).parent / "skeletons" / settings.name, settings)
    readme.write_text(_README.format(name=folder.name, folder=folder, command=command), encoding="utf-8")
    for path in (settings, readme):
        print(f"written: {path}")
