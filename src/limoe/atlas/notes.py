"""What has to be said about a router before its pictures are read."""

from torch import nn

from limoe.routing.expert_choice import ExpertChoiceRouter
from limoe.routing.fixed import FixedRouter
from limoe.routing.soft import SoftRouter
from limoe.routing.token_choice import SeatedRouter

_EXPERT_CHOICE = (
    "Experts choose tokens here (expert choice). Every token is shown at one expert: of those that took it, the one "
    "with the largest gate. Shares and loads count each token once, also one that nobody took; in the pictures that "
    "one has no colour. Which tokens are taken depends on the other tokens of a batch."
)
_SOFT = (
    "All experts work for all tokens here (soft routing). A token is shown at the expert that has the largest share of "
    "its output, and the gate is that share; nobody is ever without a seat. The knock-out silences all slots of an "
    "expert."
)
_FIXED = (
    "This router learns nothing: the expert follows from a token's place or from chance. Gates are 1, entropies 0, and "
    "the order of patches is the order of the pictures."
)


def notes(router: nn.Module, *, k: int) -> list[str]:
    """Sentences for the page; none for a router that lets every token choose its one expert freely."""
    kinds = ((ExpertChoiceRouter, _EXPERT_CHOICE), (SoftRouter, _SOFT), (FixedRouter, _FIXED))
    found = [sentence for kind, sentence in kinds if isinstance(router, kind)]
    if k > 1:
        choices = "Patches and words stand at each of them; coloured pictures show the first choice."
        found.append(f"A token has {k} experts. {choices}")
    if isinstance(router, SeatedRouter) and router.eval_capacity_factor is not None:
        limit = f"seats in evaluation too (factor {router.eval_capacity_factor})"
        found.append(f"This run limits {limit}: tokens without a seat are at no expert.")
    return found
