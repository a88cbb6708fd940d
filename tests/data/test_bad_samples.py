import copy
import pickle

import pytest

from limoe.data.bad_samples import SHOWN, BadContent, BadSample, BadSampleError, BadSamples, LeavesOutBad, bad_of

CUT = BadSample("a.tar", "0001", "bad_image", "its image is cut")
EMPTY = BadSample("b.tar", "7", "empty", "its image is empty (0 bytes)")


def collected(*samples: BadSample) -> BadSamples:
    bad = BadSamples()
    for sample in samples:
        bad.add(sample)
    return bad


def test_counts_go_on_after_the_first_few() -> None:
    others = [EMPTY._replace(key=str(number)) for number in range(SHOWN)]
    bad = collected(*others, *[CUT] * 30)
    assert (bad.total, dict(bad.counts)) == (50, {"empty": 20, "bad_image": 30})
    assert bad.first == others
    assert bad.by_kind() == "bad_image 30, empty 20"


def test_merging_keeps_the_first_of_the_first() -> None:
    bad = collected(CUT)
    other = collected(*[EMPTY._replace(key=str(number)) for number in range(25)])
    bad.merge(other)
    assert (bad.total, bad.first[0], len(bad.first)) == (26, CUT, 20)
    assert (other.total, len(other.first)) == (25, 20)


def test_a_sample_that_comes_again_is_counted_and_not_listed_again() -> None:
    bad = collected(CUT, EMPTY, CUT)
    bad.merge(collected(EMPTY))
    assert (bad.total, bad.first) == (4, [CUT, EMPTY])


def test_the_table_has_a_line_per_sample() -> None:
    lines = collected(CUT, EMPTY).table().splitlines()
    assert lines == [
        "place  key  reason",
        "a.tar  0001  its image is cut",
        "b.tar  7  its image is empty (0 bytes)",
    ]


def test_names_can_forge_neither_a_line_nor_a_colour() -> None:
    evil = BadSample("a.tar", "k\n\x1b[31mlimoe: done\x07", "empty", "x" * 150)
    (_, row) = collected(evil).table().splitlines()
    assert row == "a.tar  k \\x1b[31mlimoe: done\\x07  " + 100 * "x"
    assert collected(evil._replace(kind="\x1b[0m")).by_kind() == "\\x1b[0m 1"


def test_content_becomes_a_sample_and_an_error_with_place_and_key() -> None:
    sample = BadContent("its image is cut", kind="bad_image").at("a.tar", "0001")
    assert sample == CUT
    assert str(BadSampleError(sample)) == "a.tar: '0001': its image is cut"


@pytest.mark.parametrize("error", [BadSampleError(CUT), BadContent("torn", kind="empty")])
def test_errors_survive_the_way_between_processes(error: BadContent | BadSampleError) -> None:
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (type(again), str(again), again.__dict__) == (type(error), str(error), error.__dict__)


def test_a_source_without_a_word_about_bad_samples_left_out_none() -> None:
    assert bad_of(object()).total == 0
    assert bad_of(type("Source", (LeavesOutBad,), {"bad": collected(CUT)})()).total == 1
