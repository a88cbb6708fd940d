"""Sources that read tables."""

from typing import Any

from limoe.data.sources.table import Table


def table(path: str, **settings: Any) -> Table:
    return Table(**({"path": path, "image_column": "image", "caption_column": "caption"} | settings))
