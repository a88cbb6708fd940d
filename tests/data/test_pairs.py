from limoe.data.pairs import PairSubset
from limoe.data.scenes.synthetic import SyntheticScenes


def test_a_subset_keeps_the_given_order() -> None:
    scenes = SyntheticScenes(split="val", size=10, image_size=16, seed=0)
    subset = PairSubset(scenes, [7, 2])
    assert len(subset) == 2
    assert [subset[i].key for i in range(2)] == ["val-000007", "val-000002"]
    assert subset.describe(1) == scenes.describe(2)
    assert list(subset.captions()) == scenes.describe(7).captions + scenes.describe(2).captions
    assert list(PairSubset(subset, [1]).captions()) == scenes.describe(2).captions
