"""The points of a search in their file: drawn once, trained by one, taken up again, never more than asked for."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from limoe.errors import ConfigError, DataError
from limoe.search.locks import locked, try_lock
from limoe.search.points import Outcome, Point, best_of
from limoe.search.space import Choices, Range
from limoe.search.spec import POINT, Sampler, Search
from limoe.search.store import Store
from limoe.studies.study import Metric, Study

STUDY = Study(
    name="mine",
    question="?",
    base=("experiment=demo",),
    variants={POINT: ()},
    seeds=(0, 1),
    metrics=(Metric("score", "score"),),
    baseline=POINT,
)
SPACE = {
    "x": Range(0.0, 1.0),
    "n": Range(2, 8, step=2),
    "lr": Range(1e-4, 1e-2, log=True),
    "c": Choices(("a", "[b,c]")),
}


def search_of(trials: int = 3, *, pruning: bool = False, name: str = "tpe") -> Search:
    return Search(STUDY, SPACE, trials, Sampler(name, 0, startup=4), pruning)


@contextlib.contextmanager
def opened(root: Path, search: Search) -> Iterator[Store]:
    with contextlib.closing(Store(root, key="mine_0", search=search)) as store:
        yield store


def score(words: dict[str, str]) -> float:
    return float(words["x"]) + (words["c"] == "a")


def run(store: Store, *, at_most: int = 100) -> None:
    for _ in range(at_most):
        with store.take() as claim:
            if claim is None:
                return
            value = score(claim.words)
            store.finish(claim, Outcome("done", seconds=2.0, values={0: value - 0.5, 1: value + 0.5}))


def test_points_are_drawn_until_there_are_enough(tmp_path: Path) -> None:
    with opened(tmp_path, search_of(3)) as store:
        run(store)
        points = store.points()
        assert [point.number for point in points] == [0, 1, 2] and all(point.ended for point in points)
        for point in points:
            assert point.value == pytest.approx(score(point.words))  # the mean of the two seeds
            assert 0 <= float(point.words["x"]) <= 1 and 1e-4 <= float(point.words["lr"]) <= 1e-2
            assert point.words["n"] in ("2", "4", "6", "8") and point.words["c"] in ("a", "[b,c]")
        best = best_of(store.search, points)
        assert best is not None and best.value == max(score(point.words) for point in points)
    with opened(tmp_path, search_of(5)) as store:  # more of the same search
        run(store)
        assert [point.words for point in store.points()][:3] == [point.words for point in points]
        assert len(store.points()) == 5


@pytest.mark.parametrize("name", ["tpe", "random"])
def test_an_interrupted_search_draws_what_it_would_have_drawn(tmp_path: Path, name: str) -> None:
    search = search_of(6, name=name)
    with opened(tmp_path / "whole", search) as store:
        run(store)
        whole = [point.words for point in store.points()]
    for _ in range(3):
        with opened(tmp_path / "parts", search) as store:
            run(store, at_most=2)
            parts = [point.words for point in store.points()]
    assert parts == whole and len({str(words) for words in whole}) == 6


def test_a_point_left_behind_is_taken_up_with_its_values(tmp_path: Path) -> None:
    with opened(tmp_path, search_of(2)) as store:
        with store.take() as claim:
            assert claim is not None
            store.begin(claim, {0: "aaaa", 1: "bbbb"})
            left = claim.words
        assert [point.status for point in store.points()] == ["running"]
    with opened(tmp_path, search_of(2)) as store, store.take() as claim:
        assert claim is not None and (claim.number, claim.words) == (0, left)
        store.finish(claim, Outcome("done", values={0: 1.0}))
        (point,) = store.points()
        assert (point.hashes, point.value) == ({0: "aaaa", 1: "bbbb"}, 1.0)


def test_a_point_that_somebody_trains_is_left_alone(tmp_path: Path) -> None:
    with opened(tmp_path, search_of(2)) as one, opened(tmp_path, search_of(2)) as other:
        with one.take() as first, other.take() as second, one.take() as third:
            assert first is not None and second is not None
            assert (first.number, second.number, third) == (0, 1, None)
        with other.take() as again:
            assert again is not None and again.number == 0


def test_many_threads_and_commands_at_once(tmp_path: Path) -> None:
    with opened(tmp_path, search_of(8)) as one, opened(tmp_path, search_of(8)) as other:
        threads = [threading.Thread(target=run, args=(store,)) for store in (one, other, one, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [point.number for point in one.points()] == list(range(8))
        assert all(point.status == "done" for point in other.points())


def test_failed_points_count_and_are_tried_again_once_per_command(tmp_path: Path) -> None:
    ends = ["failed", "diverged", "killed", "refused", "timeout", "no result", "pruned"]
    with opened(tmp_path, search_of(len(ends))) as store:
        for status in ends:
            with store.take() as claim:
                assert claim is not None
                store.finish(claim, Outcome(status, error="why", seconds=1.0, values={0: 0.5}))
        before = store.points()
        assert [(point.status, point.value) for point in before] == [(status, None) for status in ends]
        assert best_of(store.search, before) is None
        with store.take() as claim:
            assert claim is None
        assert store.retry() == 3
        run(store)
        after = store.points()
        assert [point.status for point in after] == ["diverged", "refused", "no result", "pruned", *["done"] * 3]
        retried = [point.words for point in before if point.status in ("failed", "killed", "timeout")]
        assert [point.words for point in after[-3:]] == retried
        assert store.retry() == 0


def test_points_below_the_median_are_noticed(tmp_path: Path) -> None:
    """The rule of optuna: after five points whose curves ended, worse at a step than their median."""
    with opened(tmp_path, search_of(7, pruning=True)) as store:
        for number in range(5):
            with store.take() as claim:
                assert claim is not None
                assert store.report(claim, {10: 0.1 * number, 20: 0.2 * number}) is None
                store.finish(claim, Outcome("done", values={0: 1.0}))
        with store.take() as claim:
            assert claim is not None
            assert store.report(claim, {10: 0.3}) is None  # the median of 0, 0.1, ... 0.4 is 0.2
            assert store.report(claim, {10: 0.3, 20: 0.35}) == 20  # the median of 0, 0.2, ... 0.8 is 0.4
            assert store.report(claim, {10: 0.3, 20: 0.35}) is None  # nothing new
            assert store.finish(claim, Outcome("pruned")).value is None


def test_importance_finds_the_parameter_that_matters(tmp_path: Path) -> None:
    with opened(tmp_path, search_of(12, name="random")) as store:
        assert store.importances() == {}
        for _ in range(12):
            with store.take() as claim:
                assert claim is not None
                store.finish(claim, Outcome("done", values={0: float(claim.words["x"])}))
        shares = store.importances()
        assert set(shares) == set(SPACE) and sum(shares.values()) == pytest.approx(1.0)
        assert next(iter(shares)) == "x" and shares["x"] > 0.5


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "search.db").write_text("no database" * 100)
    with pytest.raises(DataError, match=r"search\.db cannot be used as the database of a search \(.*\); move it away"):
        Store(tmp_path, key="mine_0", search=search_of())
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"^paths\.log_dir: .*file cannot be written"):
        Store(tmp_path / "file", key="mine_0", search=search_of())


def test_a_path_may_hold_any_character(tmp_path: Path) -> None:
    folder = tmp_path / "a b%20?#{c}"
    with opened(folder, search_of(1)) as store:
        run(store)
    assert (folder / "search.db").stat().st_size > 0


def test_best_is_the_first_of_equals_and_may_be_the_lowest() -> None:
    points = [Point(n, {}, {}, Outcome("done"), value) for n, value in enumerate([2.0, 1.0, 1.0, 3.0])]
    lower = Study(**{**vars(STUDY), "metrics": (Metric("loss", "loss", higher=False),)})
    search = search_of()
    assert best_of(search, points) == points[3]
    assert best_of(Search(lower, SPACE, 4, search.sampler, False), points) == points[1]
    assert best_of(search, []) is None


def test_locks(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path):
        assert try_lock(path) is None
    file = try_lock(path)
    assert file is not None and try_lock(path) is None
    file.close()
    with locked(path):
        pass
