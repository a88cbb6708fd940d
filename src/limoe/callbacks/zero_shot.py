"""Zero-shot classification during training."""

from limoe.callbacks.task_validation import TaskValidation
from limoe.types import ZeroShotTask


class ZeroShotValidation(TaskValidation):
    """Logs `val/<task>/zeroshot_top1`, `zeroshot_top5` and `zeroshot_class_mean` of every `ZeroShotTask`."""

    name = "zero_shot"
    kind = ZeroShotTask
    shown = ("zeroshot_top1",)
