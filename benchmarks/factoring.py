"""Does it matter that our attention is one fused matrix? Update directions of Adafactor, fused against per head.

    python -m benchmarks.factoring --steps 200

The reference keeps the query, key and value kernels of every head apart and factors the second moment of each; ours are
one matrix [3 D, D]. Cosine between both updates (1 = same direction) and ratio of their lengths, for random gradients
and for those of the demo after each quarter of its steps.
"""

import argparse
from collections.abc import Iterator
from itertools import cycle, islice

import limoe  # noqa: F401  (first: makes torchvision importable beside a CPU-only torch)

# isort: split
import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table
from timm.optim import AdafactorBigVision
from torch import Tensor, nn
from tqdm import tqdm

from limoe.build import build_data, build_module
from limoe.config.places import config_dir, register_resolvers
from limoe.training.micro_batches import encode


def update(gradients: list[Tensor]) -> Tensor:
    """What Adafactor without momentum moves a parameter by after these gradients, at rate 1."""
    parameter = nn.Parameter(torch.zeros_like(gradients[0]))
    optimizer = AdafactorBigVision([parameter], lr=1.0, momentum=None, min_dim_size_to_factor=32)
    for gradient in gradients:
        parameter.data.zero_()
        parameter.grad = gradient
        optimizer.step()
    return -parameter.data


def per_head(weight: Tensor, num_heads: int) -> Tensor:
    """[n D, D] of a fused projection as the reference holds it: heads apart, D and head_dim the two largest axes."""
    return weight.unflatten(0, (-1, num_heads, weight.shape[1] // num_heads)).contiguous()


def compare(gradients: list[Tensor], num_heads: int) -> tuple[float, float]:
    """Cosine and ratio of lengths of the fused and the per-head update, each projection by itself in the latter."""
    fused = update(gradients)
    parts = zip(*(per_head(gradient, num_heads) for gradient in gradients), strict=True)
    heads = torch.stack([update([g.contiguous() for g in part]) for part in parts]).flatten(0, 2)
    return torch.cosine_similarity(fused.flatten(), heads.flatten(), dim=0).item(), (fused.norm() / heads.norm()).item()


def demo_gradients(steps: int) -> Iterator[tuple[int, dict[str, Tensor], int]]:
    """Step, gradients of the fused attention matrices, and heads, while the demo trains with Adafactor."""
    register_resolvers()
    with initialize_config_dir(str(config_dir("train")), version_base="1.3"):
        cfg = compose("train", ["experiment=scenes", "optimizer=adafactor", "paths.output_dir=unused"])
    torch.manual_seed(0)
    data, module = build_data(cfg), build_module(cfg)
    data.setup("fit")
    optimizer = module.configure_optimizers()["optimizer"]
    for step, batch in enumerate(tqdm(islice(cycle(data.train_dataloader()), steps), total=steps, disable=None), 1):
        output = encode(module.model, batch)
        loss = module.contrastive(output.image_features, output.text_features, output.logit_scale)
        (loss + module.aux_losses(output.routing).total).backward()
        named = module.model.named_parameters()
        yield step, {name: p.grad.clone() for name, p in named if "qkv.weight" in name}, cfg.model.num_heads
        optimizer.step()
        optimizer.zero_grad()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.factoring", description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps
    table = Table("gradients", "matrices", "cosine", "ratio of lengths")
    torch.manual_seed(0)
    table.add_row(
        "random, 10 steps", "1", *(f"{x:.4f}" for x in compare([torch.randn(384, 128) for _ in range(10)], 4))
    )
    history: dict[str, list[Tensor]] = {}
    for step, gradients, heads in demo_gradients(steps):
        for name, gradient in gradients.items():
            history.setdefault(name, []).append(gradient)
        if step % (steps // 4) == 0:
            found = [compare(past, heads) for past in history.values()]
            cells = (f"{min(values):.4f} to {max(values):.4f}" for values in zip(*found, strict=True))
            table.add_row(f"demo, step {step}", str(len(found)), *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
