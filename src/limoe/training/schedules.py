"""Functions of the step: learning-rate factors (0 to 1) and the ramps of anything else."""

import math
from collections.abc import Callable

from limoe.errors import require_argument

Schedule = Callable[[int], float]


def _steps(name: str, value: int | float, total_steps: int) -> int:
    """A whole number counts steps, a fraction (0.1) is a share of the run."""
    require_argument(total_steps > 0, "total_steps", "> 0", total_steps)
    limit = 1.0 if isinstance(value, float) else total_steps
    rule = f"a fraction of the run (0.0 to 1.0) or a whole number of steps up to total_steps={total_steps}"
    require_argument(0 <= value <= limit, name, rule, value)
    return round(value * total_steps) if isinstance(value, float) else value


def _trapezoid(step: int, *, total_steps: int, warmup_steps: int, cooldown_steps: int) -> float:
    """0 to 1 over the warmup, 1, and 1 to 0 over the cooldown."""
    up = 1.0
    if warmup_steps > 0:
        up = min(1.0, step / warmup_steps)
    down = 1.0
    if cooldown_steps > 0:
        down = min(1.0, (total_steps - step) / cooldown_steps)
    return up * max(0.0, down)


def rsqrt(*, total_steps: int, warmup: int | float, cooldown: int | float, timescale: int = 10_000) -> Schedule:
    """Warmup, 1 / sqrt(1 + (step - warmup) / timescale), and a linear cooldown to 0 that multiplies it (big_vision)."""
    require_argument(timescale > 0, "timescale", "> 0", timescale)
    warmup_steps = _steps("warmup", warmup, total_steps)
    cooldown_steps = _steps("cooldown", cooldown, total_steps)

    def factor(step: int) -> float:
        decay = 1 / math.sqrt(1 + max(0, step - warmup_steps) / timescale)
        ramp = _trapezoid(step, total_steps=total_steps, warmup_steps=warmup_steps, cooldown_steps=cooldown_steps)
        return decay * ramp

    return factor


def cosine(*, total_steps: int, warmup: int | float, final_factor: float = 0.0) -> Schedule:
    """Warmup, then half a cosine down to `final_factor`."""
    require_argument(0 <= final_factor <= 1, "final_factor", "between 0 and 1", final_factor)
    warmup_steps = _steps("warmup", warmup, total_steps)

    def factor(step: int) -> float:
        decay_steps = max(1, total_steps - warmup_steps)
        progress = min(1.0, max(0, step - warmup_steps) / decay_steps)
        half_cosine = 0.5 * (1 + math.cos(math.pi * progress))
        ramp = _trapezoid(step, total_steps=total_steps, warmup_steps=warmup_steps, cooldown_steps=0)
        return ramp * (final_factor + (1 - final_factor) * half_cosine)

    return factor


def warmup_stable_decay(*, total_steps: int, warmup: int | float, cooldown: int | float) -> Schedule:
    """Warmup, constant, and a linear cooldown to 0."""
    warmup_steps = _steps("warmup", warmup, total_steps)
    cooldown_steps = _steps("cooldown", cooldown, total_steps)

    def factor(step: int) -> float:
        return _trapezoid(step, total_steps=total_steps, warmup_steps=warmup_steps, cooldown_steps=cooldown_steps)

    return factor
