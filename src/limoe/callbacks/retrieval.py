"""Image-text retrieval during training."""

from limoe.callbacks.task_validation import TaskValidation
from limoe.types import RetrievalTask


class RetrievalValidation(TaskValidation):
    """Logs `val/<task>/i2t_r1|r5|r10` and `t2i_r1|r5|r10` of every `RetrievalTask`."""

    name = "retrieval"
    kind = RetrievalTask
