from random import Random
from typing import Any

import pytest
import torch

from limoe.data.images.transforms import EvalTransform, TrainTransform
from limoe.data.loading import BatchCollate, EvalExamples, Example, TrainExamples, read_pair, stack_images
from limoe.data.scenes.synthetic import SyntheticScenes
from limoe.data.text.tokenizers import ByteBPE
from limoe.errors import DataError
from tests.helpers.faulty import FaultyScenes, broken_sample

SCENES = SyntheticScenes(split="train", size=40, image_size=16, seed=0)
AUGMENT = TrainTransform(image_size=16, min_scale=0.5, flip=0.5, jitter=0.2)


def equal(one: Example, other: Example) -> bool:
    return torch.equal(one.image, other.image) and one[1:] == other[1:]


def test_an_example_depends_on_seed_epoch_and_index_alone() -> None:
    one, same = (TrainExamples(SCENES, transform=AUGMENT, seed=3) for _ in range(2))
    first = one[2, 5]
    _ = one[0, 1]
    assert equal(first, one[2, 5])
    assert equal(first, same[2, 5])
    assert first.position == 5
    assert not torch.equal(first.image, one[3, 5].image)
    assert not torch.equal(first.image, TrainExamples(SCENES, transform=AUGMENT, seed=4)[2, 5].image)


def test_every_caption_is_chosen_over_the_epochs() -> None:
    examples = TrainExamples(SCENES, transform=AUGMENT, seed=0)
    for index in range(3):
        assert {examples[epoch, index].caption for epoch in range(60)} == set(SCENES[index].captions)


def test_evaluation_takes_the_first_caption_and_the_plain_image() -> None:
    examples = EvalExamples(SCENES, transform=EvalTransform(image_size=16))
    assert len(examples) == 40
    assert equal(examples[4], Example(EvalTransform(image_size=16)(SCENES[4].image), SCENES[4].captions[0], 4))


def test_the_transform_gets_the_generator_of_its_example() -> None:
    seen = []

    def transform(image: Any, rng: Random) -> Any:
        seen.append(rng.random())
        return torch.zeros(3, 1, 1)

    examples = TrainExamples(SCENES, transform=transform, seed=0)
    _ = [examples[0, 0], examples[0, 1], examples[0, 0]]
    assert seen[0] == seen[2] != seen[1]


def test_collate_stacks_images_and_texts() -> None:
    tokenizer = ByteBPE(vocab_size=270, length=6, max_captions=10).fit(["red one", "two"])
    examples = [Example(torch.full((3, 2, 2), float(i)), text, 7 + i) for i, text in enumerate(["red one", "two"])]
    batch = BatchCollate(tokenizer)(examples)
    assert batch.images.shape == (2, 3, 2, 2)
    assert batch.images[:, 0, 0, 0].tolist() == [0.0, 1.0]
    assert torch.equal(batch.text_ids, tokenizer.encode(["red one", "two"])[0])
    assert batch.text_mask.sum(1).tolist() == tokenizer.encode(["red one", "two"])[1].sum(1).tolist()
    assert batch.sample.tolist() == [7, 8]
    assert torch.equal(stack_images(examples), batch.images)


def test_a_bad_sample_is_replaced_by_one_that_seed_epoch_and_index_name() -> None:
    scenes = FaultyScenes(size=40, broken={5})
    examples = TrainExamples(scenes, transform=AUGMENT, seed=3, stand_ins=10)
    first = examples[2, 5]
    assert first.position != 5
    assert first.bad == (broken_sample(5),)
    assert equal(first, examples[2, 5])
    assert len({examples[epoch, 5].position for epoch in range(20)}) > 5
    assert equal(examples[2, 6], TrainExamples(SCENES, transform=AUGMENT, seed=3)[2, 6])


def test_stand_ins_that_are_bad_themselves_are_listed_too() -> None:
    everything_but_7 = FaultyScenes(size=8, broken=range(7))
    _, position, bad = read_pair(everything_but_7, 0, stand_ins=1000, seed="a")
    assert position == 7
    assert bad[0] == broken_sample(0)
    tried = [Random(f"a/{attempt}").randrange(8) for attempt in range(len(bad))]
    assert [broken_sample(index) for index in tried[:-1]] == list(bad[1:])


def test_after_so_many_attempts_it_is_an_error() -> None:
    nothing = FaultyScenes(size=8, broken=range(8))
    for examples, place in (
        (TrainExamples(nothing, transform=AUGMENT, seed=0, stand_ins=3), (0, 2)),
        (EvalExamples(nothing, transform=EvalTransform(image_size=16), stand_ins=3), 2),
    ):
        with pytest.raises(DataError, match=r"^4 samples in a row are bad, the last is scenes: 's\d': its"):
            examples[place]


def test_without_stand_ins_the_error_names_place_key_and_reason() -> None:
    examples = TrainExamples(FaultyScenes(size=8, broken={2}), transform=AUGMENT, seed=0)
    with pytest.raises(DataError, match=r"^scenes: 's2': its image is torn$"):
        examples[0, 2]


def test_collate_hands_on_what_was_replaced() -> None:
    tokenizer = ByteBPE(vocab_size=270, length=6, max_captions=10).fit(["red one", "two"])
    examples = EvalExamples(FaultyScenes(size=8, broken={1, 2}), transform=EvalTransform(image_size=16), stand_ins=100)
    batch = BatchCollate(tokenizer)([examples[i] for i in range(4)])
    assert set(batch.bad) == {broken_sample(1), broken_sample(2)}
    assert batch.images.shape == (4, 3, 16, 16)
    assert not {1, 2} & set(batch.sample.tolist())


@pytest.mark.parametrize("seed", [0, 1])
def test_the_global_generators_stay_untouched(seed: int) -> None:
    torch.manual_seed(seed)
    state = torch.get_rng_state()
    _ = TrainExamples(SCENES, transform=AUGMENT, seed=seed)[0, 0]
    assert torch.equal(state, torch.get_rng_state())
