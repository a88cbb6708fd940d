"""The paper's comparison as a study: a sparse one-tower and compute-matched baselines."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra import compose
from omegaconf import OmegaConf

from limoe.config.model_settings import sparse_towers, two_tower_baseline
from limoe.config.trees import leaves
from limoe.errors import ConfigError
from limoe.studies.study import Metric, Published, Study, Tuned, read_overrides

SPARSE, DENSE, TWO_TOWER = "sparse", "dense", "two_tower"
VARIANTS = (SPARSE, DENSE, TWO_TOWER)
# Zero-shot ImageNet top-1, COCO R@1 (image to text, text to image)
_PUBLISHED = {
    "b32": ("LIMoE B/32", "67.5 %; 45.7 %, 31.0 %", "cited by arXiv 2404.16030, Table 13"),
    "b16": ("LIMoE B/16", "73.7 %; 51.3 %, 36.2 %", "cited by arXiv 2404.16030; MoE-ViE"),
    "l16": ("LIMoE L/16", "78.6 % (camera-ready 77.9 %); 55.7 %, 39.6 %", "abstract; COCO unverified"),
    "h14": ("LIMoE H/14", "84.1 % (camera-ready 83.8 %)", "abstract"),
}


def comparison(
    overrides: Sequence[str],
    *,
    name: str,
    seeds: Sequence[int],
    variants: Sequence[str],
    metrics: Sequence[str],
    tuned: Mapping[str, Sequence[str]],
) -> Study:
    """The study that trains `variants` of the sparse run `limoe train <overrides>`, each with its overrides in `tuned`.

    The dense one-tower has an MLP in place of the experts: with K = 1 the same FLOPs per token, without the routers'.
    The two-tower has one dense tower of that shape per modality: the same FLOPs, twice the parameters.

    Raises:
        ConfigError: the run is not a sparse one-tower with K = 1, or a variant is unknown.
        DataError: the values of `tuned` are no lists of overrides.
    """
    chosen = _tuned(tuned, variants)
    cfg = compose("train", overrides=list(overrides))
    model: dict[str, Any] = OmegaConf.to_container(cfg.model, resolve=True)  # type: ignore[assignment]
    if "depth" not in model or not sparse_towers(model):
        raise ConfigError("model: a comparison starts from a sparse one-tower, such as experiment=emoji_limoe")
    k = cfg.routing.get("k", 1)
    if k != 1:
        raise ConfigError(f"routing.k={k}: an MLP in place of K experts costs 1/K of them; compare at routing.k=1")
    sizes = tuple(word for word in overrides if word.startswith("model."))
    own = {
        SPARSE: sizes,
        DENSE: (*sizes, "model.moe_layers=[]", "aux_loss=none"),
        TWO_TOWER: ("model=two_tower_tiny", "aux_loss=none", *_numbers(two_tower_baseline(model))),
    }
    return Study(
        name=name,
        question="At equal compute, does the sparse one-tower beat the dense one-tower and the dense two-tower?",
        paper="Reports gains over the dense one-tower at equal cost, about 10 points zero-shot on average, and that it "
        "matches or beats the two-tower in most cases (arXiv 2206.02770; both unverified).",
        base=tuple(word for word in overrides if word not in sizes),
        variants={name: own[name] + (chosen[name].words if name in chosen else ()) for name in variants},
        tuned=chosen,
        seeds=tuple(seeds),
        metrics=tuple(Metric(key, key.removeprefix("val/")) for key in metrics),
        baseline=variants[0],
        published=published(overrides),
    )


def _tuned(tuned: Mapping[str, Sequence[str]], variants: Sequence[str]) -> dict[str, Tuned]:
    """The values of their own of `variants`, with the names of both checked."""
    for variant in variants:
        if variant not in VARIANTS:
            raise ConfigError(f"variants: {variant!r} must be one of {', '.join(VARIANTS)}")
    for variant in tuned:
        if variant not in variants:
            raise ConfigError(f"tuned: {variant!r} must be one of {', '.join(variants)}")
    return {key: Tuned(read_overrides(words, "limoe compare", f"tuned.{key}")) for key, words in tuned.items()}


def _numbers(settings: dict[str, Any]) -> list[str]:
    """Overrides that set every number of a model; the model option that they override sets the rest."""
    return [
        f"{key}={str(value).lower() if isinstance(value, bool) else value}"
        for key, value in leaves(settings, "model")
        if isinstance(value, bool | int | float) and not key.endswith(("._partial_", ".vocab_size", ".text_length"))
    ]


def published(overrides: Sequence[str]) -> tuple[Published, ...]:
    """The paper's numbers for the models limoe_b16, limoe_l16 ... in `overrides`: ImageNet; COCO R@1 I->T, T->I."""
    return tuple(Published(*row) for scale, row in _PUBLISHED.items() if f"model=limoe_{scale}" in overrides)
