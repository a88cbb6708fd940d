"""Zero-shot classification from features: a class is the mean direction of its prompts."""

import hashlib
import json
from collections.abc import Callable, Sequence

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from limoe.errors import require_argument

_EPS = 1e-8  # added to the length of a class vector, so that prompts that cancel give zeros and not NaN


def prompts_of(class_names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Every class in every template, class by class. Raises `ArgumentError` unless each template has one `{}`."""
    require_argument(len(templates) > 0, "templates", "a list with at least one prompt", list(templates))
    for template in templates:
        require_argument(template.count("{}") == 1, "templates", "prompts with exactly one {}", template)
    return [template.replace("{}", name) for name in class_names for template in templates]


def prompts_sha256(class_names: Sequence[str], templates: Sequence[str]) -> str:
    """Of names and templates as they are used, in order: numbers compare only where this is equal."""
    return hashlib.sha256(json.dumps([list(class_names), list(templates)]).encode()).hexdigest()


def class_embeddings(
    encode: Callable[[list[str]], Tensor],
    *,
    class_names: Sequence[str],
    templates: Sequence[str],
) -> Float[Tensor, "classes d_out"]:
    """One unit vector per class: prompts of unit length, averaged over templates, brought to unit length again.

    `encode` turns texts into features `[texts, d_out]`. Computed in float32.
    """
    features = F.normalize(encode(prompts_of(class_names, templates)).float(), dim=-1)
    mean = features.view(len(class_names), len(templates), -1).mean(1)
    return mean / (mean.norm(dim=-1, keepdim=True) + _EPS)


def classify(
    image_features: Float[Tensor, "images d_out"], class_features: Float[Tensor, "classes d_out"]
) -> Float[Tensor, "images classes"]:
    """Cosine of every image with every class, in float32; the largest one is the prediction."""
    return image_features.float() @ class_features.float().T


def chance_top_k(num_classes: int, *, k: int) -> float:
    """Share of images that k different classes drawn at random get right."""
    return min(k, num_classes) / num_classes
