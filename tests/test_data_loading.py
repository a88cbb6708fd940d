from random import Random

import pytest
import torch

from limoe.data.loading import BatchCollate, EvalExamples, Example, TrainExamples, stack_pictures
from limoe.data.synthetic import SyntheticScenes
from limoe.data.tokenizers import train_byte_bpe
from limoe.data.transforms import EvalTransform, TrainTransform

SCENES = SyntheticScenes(split="train", size=40, image_size=16, seed=0)
AUGMENT = TrainTransform(image_size=16, min_scale=0.5, flip=0.5, jitter=0.2)


def equal(one, other):
    return torch.equal(one.image, other.image) and one[1:] == other[1:]


def test_an_example_depends_on_seed_epoch_and_index_alone():
    one, same = (TrainExamples(SCENES, transform=AUGMENT, seed=3) for _ in range(2))
    first = one[2, 5]
    _ = one[0, 1]
    assert equal(first, one[2, 5])
    assert equal(first, same[2, 5])
    assert first.position == 5
    assert not torch.equal(first.image, one[3, 5].image)
    assert not torch.equal(first.image, TrainExamples(SCENES, transform=AUGMENT, seed=4)[2, 5].image)


def test_every_caption_is_chosen_over_the_epochs():
    examples = TrainExamples(SCENES, transform=AUGMENT, seed=0)
    for index in range(3):
        assert {examples[epoch, index].caption for epoch in range(60)} == set(SCENES[index].captions)


def test_evaluation_takes_the_first_caption_and_the_plain_picture():
    examples = EvalExamples(SCENES, transform=EvalTransform(image_size=16))
    assert len(examples) == 40
    assert equal(examples[4], Example(EvalTransform(image_size=16)(SCENES[4].image), SCENES[4].captions[0], 4))


def test_the_transform_gets_the_generator_of_its_example():
    seen = []

    def transform(image, rng: Random):
        seen.append(rng.random())
        return torch.zeros(3, 1, 1)

    examples = TrainExamples(SCENES, transform=transform, seed=0)
    _ = [examples[0, 0], examples[0, 1], examples[0, 0]]
    assert seen[0] == seen[2] != seen[1]


def test_collate_stacks_pictures_and_texts():
    tokenizer = train_byte_bpe(["red one", "two"], vocab_size=270, length=6)
    examples = [Example(torch.full((3, 2, 2), float(i)), text, 7 + i) for i, text in enumerate(["red one", "two"])]
    batch = BatchCollate(tokenizer)(examples)
    assert batch.images.shape == (2, 3, 2, 2)
    assert batch.images[:, 0, 0, 0].tolist() == [0.0, 1.0]
    assert torch.equal(batch.text_ids, tokenizer.encode(["red one", "two"])[0])
    assert batch.text_mask.sum(1).tolist() == tokenizer.encode(["red one", "two"])[1].sum(1).tolist()
    assert batch.sample.tolist() == [7, 8]
    assert torch.equal(stack_pictures(examples), batch.images)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_global_generators_stay_untouched(seed):
    torch.manual_seed(seed)
    state = torch.get_rng_state()
    _ = TrainExamples(SCENES, transform=AUGMENT, seed=seed)[0, 0]
    assert torch.equal(state, torch.get_rng_state())
