"""Damaged images: each is an RGB image or a `BadContent`, within bounded memory."""

import resource
from collections import Counter

import pytest

from limoe.data.bad_samples import BadContent
from limoe.data.images.decoding import decode_rgb
from tests.helpers.mutated import good_images, mutations


def outcomes(*, count: int, seed: int) -> tuple[Counter[str], float]:
    """How often each kind came, and by how many MB the peak memory of the process grew meanwhile."""
    originals = good_images()
    for data in originals:
        assert decode_rgb(data).mode == "RGB"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found: Counter[str] = Counter()
    for data in mutations(originals, count=count, seed=seed):
        try:
            found[decode_rgb(data).mode] += 1
        except BadContent as error:
            found[error.kind] += 1
    return found, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def test_damaged_images_raise_nothing_else() -> None:
    found, _ = outcomes(count=300, seed=0)
    assert found.total() == 300
    assert min(found["RGB"], found["bad_image"], found["unknown_format"]) > 20


@pytest.mark.slow
def test_many_damaged_images_raise_nothing_else_and_stay_small() -> None:
    found, megabytes = outcomes(count=10_000, seed=1)
    assert found.keys() == {"RGB", "bad_image", "unknown_format", "too_large", "empty"}
    assert found.total() == 10_000
    assert megabytes < 300
    print(dict(found), f"peak memory +{megabytes:.0f} MB")
