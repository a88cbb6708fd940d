"""The contracts, kept by classes outside of the repository that limoe has never seen, through the command line.

Every class below is made in another way than those of limoe: a loss with a required argument and a parent of its own, a
callback that uses everything that a callback may offer, a dataset that cannot describe a pair without its image.
"""

import json
from pathlib import Path

import pytest

from tests.helpers.commands import limoe

LOSS = '''
from jaxtyping import Float
from torch import Tensor

from limoe.losses.auxiliary.base import AuxLoss
from limoe.types import RouterOutput


class NoisyLoss(AuxLoss):
    """Losses of this project that need noise."""

    needs_noise = True


class NoiseGap(NoisyLoss):
    """`scale` times the mean squared difference of noisy and clean logits, plus the mean squared clean logit."""

    def __init__(self, *, scale: float, **settings):
        super().__init__(**settings)
        if scale <= 0:
            raise ValueError(f"scale must be > 0, got {scale}")
        self.scale = scale

    def __call__(self, routed: RouterOutput) -> Float[Tensor, ""]:
        gap = (routed.noisy_logits - routed.logits).square()
        mean, _ = self.token_mean(routed, gap + routed.logits.square())
        return self.scale * mean.mean()


class NoLoss:
    """Has everything that a loss has and does not say that it is one."""

    needs_noise = True
    modality = None

    def __call__(self, routed):
        return routed.logits.mean()
'''

CALLBACK = '''
from limoe.callbacks.base import TaskCallback
from limoe.errors import ConfigError
from limoe.data.tasks.kinds import RetrievalTask, ZeroShotTask


class StopAfter(TaskCallback):
    """Ends the training after `steps` steps, logs how many images its task has, and wants a loss to be there."""

    kind = ZeroShotTask | RetrievalTask

    def __init__(self, *, steps: int, task: str, loss: str):
        super().__init__()
        self.steps, self.task, self.loss = steps, task, loss

    def use_tasks(self, tasks):
        super().use_tasks(tasks)
        if self.task not in self.tasks:
            raise ConfigError(f"callbacks.stop_after.task must be one of {', '.join(self.tasks)}, got {self.task!r}")

    def check(self, module):
        if self.loss not in module.aux_losses.terms:
            raise ConfigError(f"callbacks.stop_after.loss={self.loss} is no loss of this run")
        assert module.hparams["callbacks"]["stop_after"]["steps"] == self.steps

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        pl_module.log("train/task_images", float(len(self.tasks[self.task].images)))
        if trainer.global_step >= self.steps:
            self.stop_reason = f"{self.steps} steps are enough"
            trainer.should_stop = True


class Plain:
    """No callback of Lightning."""
'''

DATA = '''
from PIL import Image

from limoe.data.bad_samples import BadSample, BadSamples, LeavesOutBad
from limoe.data.tasks.kinds import PromptSource, ZeroShotTask
from limoe.types import Pair

COLOURS = ("red", "green", "blue", "white")


class Squares(LeavesOutBad):
    """Images of one colour; every fifth has no caption and is left out."""

    def __init__(self, *, size: int, side: int):
        self.bad = BadSamples()
        self.colours, self.side = [], side
        for number in range(size):
            if number % 5 == 4:
                self.bad.add(BadSample("squares", str(number), "no_caption", "it has none"))
            else:
                self.colours.append(COLOURS[number % 4])

    def __len__(self):
        return len(self.colours)

    def __getitem__(self, index):
        colour = self.colours[index]
        image = Image.new("RGB", (self.side, self.side), colour)
        return Pair(image, [f"a {colour} square"], {"colour": colour}, str(index))

    def captions(self):
        for colour in self.colours:
            yield f"a {colour} square"


def name_the_colour(images):
    labels = [COLOURS.index(images[i].labels["colour"]) for i in range(len(images))]
    return ZeroShotTask(images, labels, list(COLOURS), ["a {} square"], PromptSource("colours"))
'''

ROUTER = '''
import torch
from torch import nn

from limoe.routing.base import Router, Usage
from limoe.types import BUFFERS, Dispatcher, ExpertTokens, RouterOutput


class Copies(Dispatcher):
    """Every expert gets a copy of every token; a token gets the mean of the experts that its gates prefer."""

    def __init__(self, weight):
        self.weight = weight  # T, E
        self.num_rows = {BUFFERS: weight.numel()}

    def dispatch(self, x, layout):
        return ExpertTokens(x.expand(self.weight.shape[1], *x.shape))

    def combine(self, expert_tokens):
        return torch.einsum("etd,te->td", expert_tokens.tokens, self.weight.to(expert_tokens.tokens.dtype))


class MixtureRouter(Router):
    """A dense mixture: no token chooses, all experts compute all tokens."""

    has_threshold = False
    tokens_choose = False

    def __init__(self, dim, *, num_experts, temperature):
        super().__init__(num_experts=num_experts)
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature}; it must be above 0")
        self.temperature = temperature
        self.weight = nn.Parameter(torch.randn(num_experts, dim) / 8)

    @property
    def depends_on_batch(self):
        return False

    def usage(self, lengths, *, pairs):
        rows = {name: float(self.num_experts * length) for name, length in lengths.items()}
        return Usage(rows, sum(rows.values()), float(self.num_experts), slots=None, pairs_per_group=None)

    def notes(self):
        return ["All experts compute all tokens of this mixture."]

    def forward(self, x, tokens):
        logits = x.float() @ self.weight.T / self.temperature
        gates = logits.softmax(-1)
        best = gates.argmax(-1, keepdim=True)
        valid = self.counted(tokens)
        routing = RouterOutput(
            logits=logits, noisy_logits=logits, gates=gates, expert_index=best, gate=gates.gather(1, best),
            kept=valid[:, None], modality=tokens.modality, valid=valid, capacity=None, noise_std=0.0,
            modalities=tokens.modalities,
        )
        return Copies(gates * valid[:, None]), routing


class NoRouter(nn.Module):
    learns = has_threshold = True
'''

FILES = {
    "our_routers.py": ROUTER,
    "configs/routing/mixture.yaml": "{_target_: our_routers.MixtureRouter, _partial_: true, temperature: 0.5}",
    "our_losses.py": LOSS,
    "our_callbacks.py": CALLBACK,
    "our_data.py": DATA,
    "configs/aux_loss/noise_gap.yaml": "noise_gap: {_target_: our_losses.NoiseGap, scale: 2.0, weight: 1.0}",
    "configs/aux_loss/no_loss.yaml": "no_loss: {_target_: our_losses.NoLoss}",
    "configs/callbacks/stop_after.yaml": """
stop_after: {_target_: our_callbacks.StopAfter, steps: 1, task: colours, loss: noise_gap}
""",
    "configs/callbacks/plain.yaml": "plain: {_target_: our_callbacks.Plain}",
    "configs/data/squares.yaml": """
defaults: [_pairs, _self_]
max_bad_fraction: 0.3
module:
  train: {_target_: our_data.Squares, size: 40, side: "${data.image_size}"}
  val: {_target_: our_data.Squares, size: 20, side: "${data.image_size}"}
""",
    "configs/eval/squares.yaml": """
colours:
  _target_: our_data.name_the_colour
  images: {_target_: our_data.Squares, size: 10, side: "${data.image_size}"}
""",
    "our_study/study.yaml": """
question: Does it matter?
base:
  - data=squares
  - aux_loss=[z,noise_gap]
  - callbacks=[default,stop_after]
  - model.width=32
  - data.batch_size=8
variants:
  noise: []
  more_noise: [routing.noise_std=2.0]
baseline: noise
seeds: [0, 1]
metrics: [val/colours/zeroshot_top1]
""",
}
OURS = ("data=squares", "aux_loss=[z,noise_gap]", "callbacks=[default,stop_after]")
SMALL = ("model.width=32", "data.batch_size=8", "debug=fdr", "hydra.run.dir=run")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text.lstrip())
    return tmp_path


def change_study(project: Path, *, variant: str) -> None:
    """One more variant of the study."""
    path = project / "our_study" / "study.yaml"
    path.write_text(path.read_text().replace("baseline:", f"  another: {variant}\nbaseline:"))


# ---------------------------------------------------------------- loss, callback and dataset together


def test_a_training(project: Path) -> None:
    limoe("train", *OURS, *SMALL, cwd=project)
    record = json.loads((project / "run" / "run.json").read_text())
    assert (record["status"], record["error"]) == ("stopped", "1 steps are enough")
    # 40 and 20 samples, of which every fifth is left out
    assert record["bad_samples"] == {"left_out": {"no_caption": 8 + 4}}
    metrics = record["metrics"]
    assert metrics["train/task_images"] == 8
    assert record["chance"]["val/colours/zeroshot_top1"] == 0.25
    assert 0 <= metrics["val/colours/zeroshot_top1"] <= 1
    assert metrics["train/aux/noise_gap"] > 0
    # the mean of two losses, times 0.04
    assert metrics["train/aux_weighted/noise_gap"] == pytest.approx(0.04 / 2 * metrics["train/aux/noise_gap"])


def test_info(project: Path) -> None:
    done = limoe("info", *OURS, "model.width=32", "data.batch_size=8", "--json", cwd=project)
    assert json.loads(done.stdout)["pairs"] == 8


def test_a_study_plans_its_trials(project: Path) -> None:
    done = limoe("study", "our_study", "dry_run=true", cwd=project)
    assert "4 trials" in done.stdout and "more_noise" in done.stdout


# ---------------------------------------------------------------- refused before anything is trained


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("callbacks.stop_after.task=birds", "callbacks.stop_after.task must be one of colours, got 'birds'"),
        ("callbacks.stop_after.loss=gshard", "callbacks.stop_after.loss=gshard is no loss of this run"),
        ("routing.noise_std=0", "routing.noise_std must be > 0, since aux_loss.noise_gap is undefined without noise"),
        ("aux_loss.noise_gap.scale=0", "aux_loss.noise_gap: scale must be > 0, got 0"),
        (
            "aux_loss=[no_loss]",
            "_target_ must be the path of a class derived from limoe.losses.auxiliary.base.AuxLoss, got",
        ),
        ("callbacks=[plain]", "callbacks.plain must be a Lightning callback (drop it: ~callbacks.plain), got"),
        ("model._target_=torch.nn.Identity", "model._target_ must be a limoe.models.dual_encoder.DualEncoder, got"),
    ],
)
def test_a_training_refuses(words: str, message: str, project: Path) -> None:
    group = words.partition("=")[0]
    ours = [word for word in OURS if not word.startswith(f"{group}=")]
    done = limoe("train", *ours, words, *SMALL, cwd=project, code=2)
    assert message in done.stderr and len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("[callbacks.stop_after.loss=gshard]", "callbacks.stop_after.loss=gshard is no loss of this run"),
        ("[routing.noise_std=0]", "routing.noise_std must be > 0, since aux_loss.noise_gap is undefined without noise"),
        ("[aux_loss.noise_gap.scale=0]", "aux_loss.noise_gap: scale must be > 0, got 0"),
    ],
)
def test_a_study_refuses(variant: str, message: str, project: Path) -> None:
    change_study(project, variant=variant)
    done = limoe("study", "our_study", "dry_run=true", cwd=project, code=2)
    assert done.stderr.startswith(f"limoe: error: variant another: {message}")


# ---------------------------------------------------------------- a router

MIXTURE = ("experiment=scenes", "routing=mixture", "aux_loss=[z,local_text]", "data.size=64")
FEW_IMAGES = [f"eval.synthetic_{task}.images.size=40" for task in ("heldout", "val")]


def test_a_router_of_ones_own_trains_and_has_an_atlas(project: Path) -> None:
    limoe("train", *MIXTURE, *FEW_IMAGES, *SMALL, cwd=project)
    metrics = json.loads((project / "run" / "run.json").read_text())["metrics"]
    assert metrics["router/L01/text/success_rate"] == 1.0 and metrics["train/aux/z"] > 0
    limoe("atlas", "run", "pairs=8", "knock_out_images=8", cwd=project)
    page = (project / "run" / "atlas" / "index.html").read_text()
    assert "All experts compute all tokens of this mixture." in page
    assert "No expert has a capacity limit, so no token is dropped." in page
    limoe("eval", "run", cwd=project)


def test_a_router_of_ones_own_is_counted(project: Path) -> None:
    """Every one of the 8 experts computes every token: 8 times the rows of a dense MLP."""
    small = [*MIXTURE, "model.width=32", "data.batch_size=8"]
    found = json.loads(limoe("info", *small, "--json", cwd=project).stdout)
    assert found["capacity"]["experts_per_token"] == 8 and found["capacity"]["slots_per_expert"] is None
    assert found["params"]["active_per_token"] == found["params"]["total"]
    assert "cannot overload" in found["collapse"]["says"]


def test_a_study_of_a_router_of_ones_own(project: Path) -> None:
    change_study(project, variant="[routing=mixture, '~aux_loss.noise_gap', 'callbacks=[default]']")
    done = limoe("study", "our_study", "dry_run=true", cwd=project)
    assert "6 trials" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("routing.temperature=0", "routing: temperature is 0; it must be above 0"),
        ("routing._target_=our_routers.NoRouter", "must be the path of a class derived from limoe.routing.base.Router"),
        ("aux_loss=[load]", "aux_loss.load is undefined with MixtureRouter, where no token chooses by its logits"),
    ],
)
def test_a_router_of_ones_own_is_refused(words: str, message: str, project: Path) -> None:
    done = limoe("train", *MIXTURE, words, *SMALL, cwd=project, code=2)
    assert message in done.stderr and len(done.stderr.strip().splitlines()) == 1
