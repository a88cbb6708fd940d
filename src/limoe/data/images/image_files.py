"""Reading of image files below one folder only."""

import os
from pathlib import Path, PurePosixPath

from limoe.data.bad_samples import BadContent

MAX_BYTES = 1 << 28  # of one image file


def inside(root: Path, name: str) -> str:
    """`name` relative to `root`; it may be an absolute path below `root`.

    Raises `BadContent` (kind `outside`) for a name that leads out of `root`.
    """
    if os.path.isabs(name) and "\0" not in name:
        real = Path(os.path.realpath(name))
        folder = root.resolve()
        if real.is_relative_to(folder):
            return real.relative_to(folder).as_posix()
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "\0" in name or name[1:2] == ":":
        raise _outside(name)
    return name


def check_file(root: Path, name: str, *, allow_outside: bool = False) -> None:
    """Check that `name` is a regular file below `root`, with links resolved, of at most `MAX_BYTES` bytes.

    Raises `BadContent` with one of the kinds `outside`, `missing_file` and `too_large`.
    """
    path = root / name
    if not allow_outside and not path.resolve().is_relative_to(root.resolve()):
        raise _outside(name)
    if not path.is_file():  # reading a pipe or device may never end
        raise BadContent(f"its image {name!r:.80} is no file in {root}", kind="missing_file")
    if path.stat().st_size > MAX_BYTES:
        raise BadContent(f"its image {name!r:.80} has more than {MAX_BYTES:,} bytes", kind="too_large")


def read_image(root: Path, name: str, *, allow_outside: bool = False) -> bytes:
    """The bytes of a file that passes `check_file`. Raises `BadContent`, also if it cannot be read."""
    try:
        check_file(root, name, allow_outside=allow_outside)
        return (root / name).read_bytes()
    except OSError as error:
        raise BadContent(f"its image {name!r:.80} cannot be read: {error.strerror}", kind="missing_file") from error


def _outside(name: str) -> BadContent:
    hint = "only allow_outside of a table or a Hugging Face dataset permits that"
    return BadContent(f"its image {name!r:.300} is outside the folder of the images; {hint}", kind="outside")
