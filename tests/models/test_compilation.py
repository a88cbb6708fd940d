"""Compiled blocks: equal numbers, the same keys, one graph per kind of block, and errors a user can mend.

Checked annotations break up graphs, so what is compiled runs in an interpreter without them.
"""

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from limoe.build import build_module
from limoe.models.compilation import compile_blocks, uncompiled
from limoe.models.dual_encoder import DualEncoder
from tests.helpers.builders import tiny_model
from tests.helpers.commands import run_without_type_checks
from tests.helpers.configs import composed

STEP = """
import torch
from limoe.models.compilation import uncompiled, compile_blocks
from limoe.losses.contrastive import SoftmaxContrastive
from limoe.training.micro_batches import encode
from tests.helpers.builders import tiny_batch, tiny_model

torch.set_num_threads(1)
torch.manual_seed(0)
SETTINGS, TOLERANCE = {settings}
router = {{"noise_std": 0.0, "pairs_per_group": 2, "capacity_factor": 0.6, "bias_balance": {{}}}}
model = tiny_model(depth=4, moe_layers=(1, 3), router=router, **{model})
batch = tiny_batch(pairs=4)

def step():
    model.zero_grad()
    output = encode(model, batch, micro_batch_size={size})
    loss = SoftmaxContrastive()(output.image_features, output.text_features, output.logit_scale)
    (loss + sum(r.log_probs.square().mean() for r in output.routing.values())).backward()
    return [output.routing[1].kept, *(p.grad.clone() for p in model.parameters() if p.grad is not None)]

counts = [b.mlp.router.balance.counts for b in model.tower.blocks[1::2]]
expected, keys = step(), list(model.state_dict())
once = [c.clone() for c in counts]
compile_blocks(model.transformer_blocks(), SETTINGS)
found = step()
assert list(model.state_dict()) == keys
assert all(torch.equal(c, 2 * o) for c, o in zip(counts, once)), (counts, once)
for a, b in zip(found, expected, strict=True):
    torch.testing.assert_close(a, b, rtol=TOLERANCE, atol=TOLERANCE)
graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
assert graphs == {graphs}, graphs
assert not torch._dynamo.utils.counters["graph_break"]
model.eval()
with torch.no_grad(), uncompiled():
    model.encode_image(batch.images[:3])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
"""


def run(*, settings: str, model: str = "{}", size: int | None = None, graphs: int = 2) -> None:
    done = run_without_type_checks(STEP.format(settings=settings, model=model, size=size, graphs=graphs))
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.timeout(180)
def test_compiled_blocks_with_recomputed_parts_give_the_same_bits() -> None:
    """A dense and a sparse graph, and the sparse one once more without counting; micro-batches around, checkpointing
    inside; `aot_eager` is torch's compiler up to the generated code."""
    model = '{"activation_checkpointing": True}'
    run(settings='{"backend": "aot_eager"}, 1e-6', model=model, size=2, graphs=3)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_generated_code_gives_the_same_numbers() -> None:
    run(settings="True, 1e-5")


def test_false_leaves_everything_as_it_is() -> None:
    model = tiny_model()
    compile_blocks(model.transformer_blocks(), False)
    assert all(module._compiled_call_impl is None for module in model.modules())
    code = "import limoe.models.compilation as c, sys; c.uncompiled(); print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"  # what is not used is not imported


class Double(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


def test_blocks_are_compiled_in_place() -> None:
    model, other = tiny_model(), Double()
    assert model.transformer_blocks() == list(model.tower.blocks)
    compile_blocks(model.transformer_blocks(), {"backend": "eager"})
    compiled = {name for name, module in model.named_modules() if module._compiled_call_impl is not None}
    assert compiled == {"tower.blocks.0", "tower.blocks.1"}
    compile_blocks([other], {"backend": "eager", "dynamic": True})
    assert other._compiled_call_impl is not None


def test_the_config_reaches_the_model() -> None:
    module = build_module(composed("compile={backend:eager}", "tokenizer.vocab_size=300"))
    assert module.model.tower.blocks[0]._compiled_call_impl is not None
    assert module.model._compiled_call_impl is None


class Blockless(DualEncoder):
    """Says nothing of its blocks."""

    def image_trunk(self, images: Any) -> Any:
        raise NotImplementedError

    def text_trunk(self, text_ids: Any, text_mask: Any) -> Any:
        raise NotImplementedError


def test_a_model_without_blocks_is_compiled_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Blockless()
    model.blocks = nn.ModuleList([Double()])  # a name alone says nothing
    monkeypatch.setattr("limoe.build.build_model", lambda cfg: model)
    build_module(composed("compile={backend:eager}"))
    assert model._compiled_call_impl is not None and model.blocks[0]._compiled_call_impl is None


def test_as_written_runs_without_the_compiler() -> None:
    double, seen = Double(), []

    def backend(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        seen.append(graph)
        return graph

    double.compile(backend=backend)
    with uncompiled():
        double(torch.ones(2))
    assert not seen
    double(torch.ones(2))
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mod": "default"}, r"compile must be true, false or a map with keys among backend, .*, got 'mod'"),
        ({"backend": "inducktor"}, r"compile\.backend must be one of .*inductor.*, got 'inducktor'"),
    ],
)
def test_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compile_blocks([Double()], settings)


def test_a_missing_compiler_is_said_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="no-such-compiler is not installed"):
        compile_blocks([Double()], True)
