"""Tests of limoe; the folders mirror src/limoe."""

import limoe  # noqa: F401  (first, also in spawned processes: makes torchvision importable beside a CPU-only torch)
