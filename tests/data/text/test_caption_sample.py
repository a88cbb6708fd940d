from collections import Counter

import pytest

from limoe.data.text.tokenizers import sample_captions


def test_few_captions_are_taken_as_they_are() -> None:
    assert sample_captions(iter("abc"), size=3) == (["a", "b", "c"], 3)
    assert sample_captions([], size=3) == ([], 0)


def test_the_same_captions_give_the_same_sample() -> None:
    captions = [str(i) for i in range(1000)]
    first, second = (sample_captions(iter(captions), size=100) for _ in range(2))
    assert first == second
    kept, total = first
    assert total == 1000 and len(set(kept)) == 100 and set(kept) <= set(captions)


def test_every_part_of_the_captions_is_as_likely() -> None:
    sample, _ = sample_captions((str(i) for i in range(20_000)), size=2000)
    tenths = Counter(int(caption) // 2000 for caption in sample)
    # 200 of each tenth are expected, with a standard deviation of sqrt(2000 * 0.1 * 0.9 * 0.9) = 12.7
    assert [tenths[i] for i in range(10)] == [pytest.approx(200, abs=51)] * 10
