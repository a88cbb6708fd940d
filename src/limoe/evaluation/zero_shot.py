"""Zero-shot classification from features: a class is the mean direction of its prompts."""

import hashlib
import json
from collections.abc import Callable, Sequence

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from limoe.errors import require_argument

_EPS = 1e-8  # added to the length of a class vector, so that prompts with mean zero give zeros and not NaN


def prompts_of(class_names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """All templates of the first class, then of the next. Raises `ArgumentError` unless each has one `{}`."""
    require_argument(len(templates) > 0, "templates", "a list with at least one prompt", list(templates))
    for template in templates:
        require_argument(template.count("{}") == 1, "templates", "prompts with exactly one {}", template)
    return [template.replace("{}", name) for name in class_names for template in templates]


def prompts_sha256(class_names: Sequence[str], templates: Sequence[str]) -> str:
    """sha256 of names and templates in use, in order: results are comparable only if it is equal."""
    return hashlib.sha256(json.dumps([list(class_names), list(templates)]).encode()).hexdigest()


def class_embeddings(
    encode: Callable[[list[str]], Tensor], *, class_names: Sequence[str], templates: Sequence[str]
) -> Float[Tensor, "classes d_out"]:
    """One unit vector per class: unit-length features of its prompts, averaged over templates, normalized again.

    `encode` turns texts into features `[texts, d_out]`. Computed in float32.
    """
    features = F.normalize(encode(prompts_of(class_names, templates)).float(), dim=-1)
    mean = features.view(len(class_names), len(templates), -1).mean(1)
    return mean / (mean.norm(dim=-1, keepdim=True) + _EPS)


def classify(
    image_features: Float[Tensor, "images d_out"], class_features: Float[Tensor, "classes d_out"]
) -> Float[Tensor, "images classes"]:
    """Cosine of every image with every class, in float32."""
    return image_features.float() @ class_features.float().T


def chance_top_k(num_classes: int, *, k: int) -> float:
    """Expected top-k accuracy of k different classes drawn at random."""
    return min(k, num_classes) / num_classes
