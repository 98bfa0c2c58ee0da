"""What every preference loss receives, what it declares, and the registry of losses.

Owns the carriers, the traits by which a stage knows what a loss needs, and the registry. Refuses to
own the losses, masks, denominators (reduce.py) and the forward pass. Invariant: a loss returns
one value per unit and never averages, so the gradient cannot depend on how pairs were packed.

Legend: U units of one micro-batch: pairs, or judged responses. A log-prob of a response is the sum,
in nats, over its trained tokens. A loss is ``loss(inputs, config) -> values_U``.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from rlpost.bounds import number
from rlpost.registry import Registry

preference_losses = Registry("loss")


@dataclass(frozen=True, kw_only=True)
class PairInputs:
    """Two responses to one prompt, the first preferred; all tensors have shape (U,).

    The policy's log-probs carry the gradient. The reference's are None for a loss that needs none.
    """

    policy_chosen_U: Tensor
    policy_rejected_U: Tensor
    chosen_tokens_U: Tensor  # trained tokens, at least 1
    rejected_tokens_U: Tensor
    ref_chosen_U: Tensor | None = None
    ref_rejected_U: Tensor | None = None

    @property
    def policy_margin_U(self) -> Tensor:
        """log pi(chosen) - log pi(rejected)."""
        return self.policy_chosen_U - self.policy_rejected_U

    @property
    def ref_margin_U(self) -> Tensor:
        """The reference's margin."""
        assert self.ref_chosen_U is not None and self.ref_rejected_U is not None
        return self.ref_chosen_U - self.ref_rejected_U

    @property
    def chosen_logratio_U(self) -> Tensor:
        """log(pi / pi_ref) of the chosen response."""
        assert self.ref_chosen_U is not None, "the loss declares no reference"
        return self.policy_chosen_U - self.ref_chosen_U

    @property
    def rejected_logratio_U(self) -> Tensor:
        """log(pi / pi_ref) of the rejected response."""
        assert self.ref_rejected_U is not None, "the loss declares no reference"
        return self.policy_rejected_U - self.ref_rejected_U

    @property
    def chosen_mean_U(self) -> Tensor:
        """log pi(chosen) per token."""
        return self.policy_chosen_U / self.chosen_tokens_U

    @property
    def rejected_mean_U(self) -> Tensor:
        """log pi(rejected) per token."""
        return self.policy_rejected_U / self.rejected_tokens_U


@dataclass(frozen=True, kw_only=True)
class JudgedInputs:
    """One response that is good or bad; all tensors have shape (U,)."""

    policy_U: Tensor  # carries the gradient
    ref_U: Tensor
    tokens_U: Tensor  # trained tokens, at least 1
    is_good_U: Tensor  # bool
    kl_U: Tensor  # one constant of the optimizer batch, without a gradient

    @property
    def logratio_U(self) -> Tensor:
        """log(pi / pi_ref) of the response."""
        return self.policy_U - self.ref_U


@dataclass(kw_only=True)
class PreferenceLossConfig:
    """What every preference loss has: a scale, and what set-up must know about the loss.

    The constants of the class are no options. A config inherits their defaults and overrides those
    that differ.
    """

    inputs: ClassVar[type] = PairInputs  # or JudgedInputs
    needs_reference: ClassVar[bool] = True  # reads the reference's log-probs
    needs_kl: ClassVar[bool] = False  # reads kl_U
    per_token: ClassVar[bool] = False  # compares log-probs per token, not their sums

    use: ClassVar[str]  # when to choose it: one sentence for docs/algorithms.md
    watch: ClassVar[str]  # which metric or hazard to watch: one sentence, also for the docs

    beta: float = number(
        0.1,
        above=0,
        at_most=1000,
        hint="0.1 is usual; higher keeps the policy closer to the reference",
        help="scale of the rewards; higher keeps the policy closer to the reference",
    )

    @property
    def nll_weight(self) -> float:
        """Weight of the chosen responses' NLL, a mean over their tokens in the optimizer batch."""
        return 0.0
