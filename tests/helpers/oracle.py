"""An independent oracle: routing and losses as plain loops over Python floats, written from the formulas alone.

Nothing here imports limoe. `moe_layer` loops too, but over differentiable rows, so that gradients can be compared.
"""

import math
import struct
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

Rows = Sequence[Sequence[float]]


def as_float32(value: float) -> float:
    return struct.unpack("f", struct.pack("f", value))[0]


def softmax(logits: Sequence[float]) -> list[float]:
    top = max(logits)
    powers = [math.exp(z - top) for z in logits]
    return [p / sum(powers) for p in powers]


def top_k(gates: Sequence[float], k: int) -> list[int]:
    """The k largest, largest first; equal gates: lower expert first."""
    return sorted(range(len(gates)), key=lambda e: (-gates[e], e))[:k]


def slots(
    expert_index: Sequence[Sequence[int]],
    *,
    score: Sequence[float],
    group: Sequence[int],
    valid: Sequence[bool],
    capacity: int | None,
) -> list[list[int | None]]:
    """The slot of every (token, choice), None where the expert was full or the token is padding."""
    num_tokens, k = len(expert_index), len(expert_index[0])
    slot: list[list[int | None]] = [[None] * k for _ in range(num_tokens)]
    taken: dict[tuple[int, int], int] = defaultdict(int)
    queue = sorted(range(num_tokens), key=lambda t: (-as_float32(score[t]), t))
    for choice in range(k):
        for token in queue:
            table = (group[token], expert_index[token][choice])
            if valid[token] and (capacity is None or taken[table] < capacity):
                slot[token][choice] = taken[table]
                taken[table] += 1
    return slot


def mlp(x: Tensor, weight_in: Tensor, bias_in: Tensor, weight_out: Tensor, bias_out: Tensor) -> Tensor:
    """D -> H -> D with the tanh approximation of GELU, written out."""
    h = x @ weight_in + bias_in
    h = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
    return h @ weight_out + bias_out


def moe_layer(
    x: Tensor,
    *,
    gate: Tensor,
    expert_index: Sequence[Sequence[int]],
    slot: Sequence[Sequence[int | None]],
    experts: Sequence[Tensor],
) -> Tensor:
    """sum_k gate * expert(x) over the choices with a slot, token by token. `experts`: stacked parameters of `mlp`."""
    rows = []
    for token in range(len(x)):
        row = torch.zeros_like(x[token])
        for choice, expert in enumerate(expert_index[token]):
            if slot[token][choice] is not None:
                row = row + gate[token, choice] * mlp(x[token], *(p[expert] for p in experts))
        rows.append(row)
    return torch.stack(rows)


def squared_cv(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return sum((v - mean) ** 2 for v in values) / len(values) / mean**2


def importance(logits: Rows) -> float:
    gates = [softmax(row) for row in logits]
    return squared_cv([sum(column) for column in zip(*gates, strict=True)])


def load(logits: Rows, *, noisy_logits: Rows, k: int, noise_std: float) -> float:
    """Squared CV of sum over tokens of P(logit_e + fresh noise > k-th largest noisy logit)."""
    columns = [0.0] * len(logits[0])
    for clean, noisy in zip(logits, noisy_logits, strict=True):
        threshold = sorted(noisy, reverse=True)[k - 1]
        for e, z in enumerate(clean):
            columns[e] += 0.5 * math.erfc((threshold - z) / noise_std / math.sqrt(2))
    return squared_cv(columns)


def balance(first_choice: Sequence[int], *, gates: Rows) -> float:
    """E * sum over experts of (share of first choices) * (mean gate)."""
    columns = zip(*gates, strict=True)
    shares = [list(first_choice).count(e) / len(first_choice) for e in range(len(gates[0]))]
    return len(shares) * sum(f * sum(column) / len(column) for f, column in zip(shares, columns, strict=True))


def z_loss(logits: Rows) -> float:
    return sum(math.log(sum(math.exp(z) for z in row)) ** 2 for row in logits) / len(logits)


def entropy(probabilities: Sequence[float]) -> float:
    return -sum(p * math.log(p) for p in probabilities if p > 0)


def local_entropy(logits: Rows) -> float:
    return sum(entropy(softmax(row)) for row in logits) / len(logits)


def global_entropy(logits: Rows) -> float:
    """H of the mean gate (positive: the loss is its negative)."""
    gates = [softmax(row) for row in logits]
    return entropy([sum(column) / len(gates) for column in zip(*gates, strict=True)])


def contrastive(image: Rows, text: Rows, scale: float) -> float:
    """0.5 * (mean over images of -ln softmax over texts + the other way round)."""
    logits = [[scale * sum(a * b for a, b in zip(i, t, strict=True)) for t in text] for i in image]
    columns = [list(column) for column in zip(*logits, strict=True)]

    def one_way(rows: Rows) -> float:
        total = 0.0
        for n, row in enumerate(rows):
            top = max(row)
            total += top + math.log(sum(math.exp(z - top) for z in row)) - row[n]
        return total / len(rows)

    return 0.5 * (one_way(logits) + one_way(columns))
