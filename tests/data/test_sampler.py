from functools import partial

import pytest
import torch

from limoe.data.sampler import EpochSampler
from limoe.errors import DataError

sampler_of = partial(EpochSampler, position=lambda: (0, 0))


def order(sampler: EpochSampler, epoch: int, start: int = 0) -> list[int]:
    sampler.position = lambda: (epoch, start)
    places = list(sampler)
    assert {place[0] for place in places} <= {epoch}
    return [index for _, index in places]


def test_an_epoch_is_a_permutation_without_the_last_short_batch() -> None:
    sampler = sampler_of(23, batch_size=5, seed=0)
    first = order(sampler, 0)
    assert len(first) == len(sampler) == 20  # 4 whole batches
    assert len(set(first)) == 20
    assert set(first) <= set(range(23))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    one, same = sampler_of(50, batch_size=5, seed=3), sampler_of(50, batch_size=5, seed=3)
    torch.manual_seed(1)
    assert order(one, 2) == order(same, 2)
    torch.manual_seed(2)
    assert order(one, 0) == order(same, 0)
    assert order(one, 0) != order(one, 1)
    assert order(one, 0) != order(sampler_of(50, batch_size=5, seed=4), 0)


def test_an_epoch_can_begin_at_any_batch() -> None:
    sampler = sampler_of(23, batch_size=5, seed=0)
    whole = order(sampler, 1)
    assert order(sampler, 1, start=3) == whole[15:]
    assert order(sampler, 1) == whole
    assert len(sampler) == 20


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_batches_of_one_process(world_size: int) -> None:
    """Joint batch b holds the same samples for 1 process of batch 6 and for 2 or 3 of batch 3 or 2."""
    alone = order(sampler_of(41, batch_size=6, seed=0), 4)
    ranks = [
        order(sampler_of(41, batch_size=6 // world_size, seed=0, rank=rank, world_size=world_size), 4)
        for rank in range(world_size)
    ]
    size = 6 // world_size
    for batch in range(6):  # 41 // 6
        joint = [index for own in ranks for index in own[batch * size : (batch + 1) * size]]
        assert sorted(joint) == sorted(alone[batch * 6 : (batch + 1) * 6])


def test_every_rank_has_equally_many_batches() -> None:
    # 31 samples, 4 ranks of batch 3: 31 // 12 = 2 batches each.
    lengths = {len(order(sampler_of(31, batch_size=3, seed=0, rank=r, world_size=4), 0)) for r in range(4)}
    assert lengths == {6}


def test_too_few_samples_are_told_with_the_numbers() -> None:
    with pytest.raises(DataError, match="7 samples are fewer than one batch of 4 on each of 2 processes"):
        sampler_of(7, batch_size=4, seed=0, world_size=2)


def test_blocks_stay_together_and_what_fills_no_batch_is_left_out() -> None:
    """22 samples in blocks of 7: three whole blocks, each of two batches of 3; what remains is left out."""
    sampler = sampler_of(22, batch_size=3, seed=0, shuffle_block=7)
    epochs = [order(sampler, epoch) for epoch in (0, 1)]
    assert len(sampler) == len(epochs[0]) == 18
    for epoch in epochs:
        blocks = [{index // 7 for index in epoch[start : start + 6]} for start in (0, 6, 12)]
        assert sorted(min(block) for block in blocks) == [0, 1, 2] and all(len(block) == 1 for block in blocks)
        assert len(set(epoch)) == 18
    assert epochs[0] != epochs[1]
    assert order(sampler, 1, start=4) == epochs[1][12:]


def test_ranks_share_the_batches_of_blocks() -> None:
    alone = order(sampler_of(40, batch_size=4, seed=1, shuffle_block=10), 2)
    ranks = [
        order(sampler_of(40, batch_size=2, seed=1, shuffle_block=10, rank=rank, world_size=2), 2) for rank in (0, 1)
    ]
    assert len(alone) == 32  # two batches of 4 in each of four blocks
    for batch in range(8):
        joint = [index for own in ranks for index in own[2 * batch : 2 * batch + 2]]
        assert sorted(joint) == sorted(alone[4 * batch : 4 * batch + 4])


def test_a_block_smaller_than_a_joint_batch_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"10 samples \(data.shuffle_block=10\) are fewer than one batch of 6 on each of 2"
    ):
        sampler_of(40, batch_size=6, seed=0, shuffle_block=10, world_size=2)
