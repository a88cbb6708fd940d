"""Folders of the repository, whatever folder a test lies in."""

from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
CONFIGS = REPO / "configs"
DOCS = REPO / "docs"
