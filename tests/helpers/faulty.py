"""A source some of whose samples cannot be read."""

from collections.abc import Collection

from limoe.data.bad_samples import BadSample, BadSampleError, BadSamples, LeavesOutBad
from limoe.data.scenes.synthetic import SyntheticScenes
from limoe.types import Pair


class FaultyScenes(SyntheticScenes, LeavesOutBad):
    """Scenes; those at the places `broken` turn out bad when read, `left_out` were found bad before."""

    def __init__(self, *, size: int, broken: Collection[int] = (), left_out: int = 0) -> None:
        super().__init__(split="train", size=size, image_size=16, seed=0)
        self.broken = set(broken)
        self.bad = BadSamples()
        for number in range(left_out):
            self.bad.add(BadSample("scenes", f"lost{number}", "no_caption", "its caption is empty"))

    def __getitem__(self, index: int) -> Pair:
        if index in self.broken:
            raise BadSampleError(broken_sample(index))
        return super().__getitem__(index)


def broken_sample(index: int) -> BadSample:
    return BadSample("scenes", f"s{index}", "bad_image", "its image is torn")
