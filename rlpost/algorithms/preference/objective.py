"""What one optimizer step of preference training minimises: the loss and the chosen one's NLL.

Owns the way from tokens to responses, the assembly and what is measured. Refuses to own masks and
denominators (reduce.py) and the losses. Invariants: in a unit of a pair the first item is chosen
and the second rejected; every trained token of a response enters its log-prob, whatever weight the
token has for the NLL; sums over a response are taken in float64, because a margin is a small
difference of large sums.

Legend: R trained tokens of one micro-batch, I responses, U units.
"""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from rlpost.algorithms.diagnostics import Diagnostics, half_for_ties
from rlpost.algorithms.loss import Loss, LossBatch, Outputs
from rlpost.algorithms.preference.dpo import DPOConfig
from rlpost.algorithms.preference.inputs import (
    JudgedInputs,
    PairInputs,
    PreferenceLossConfig,
    preference_losses,
)
from rlpost.algorithms.sequences import item_of_units, item_sums


@dataclass(frozen=True, kw_only=True)
class PreferenceObjective:
    """The loss of every unit, and ``nll_weight`` times the NLL of the chosen responses' tokens.

    A batch carries ``weight_U`` (1 / units of the optimizer batch); ``ref_logprobs_R`` with a
    reference; ``weight_R`` with an NLL: 1 / (tokens of all chosen responses of the optimizer batch)
    at these tokens and 0 at others; ``label_U`` (1 good, 0 bad) for judged responses; and ``kl_U``
    where the loss reads it.

    It reports ``rewards/*``: ``beta`` times the log-ratio, or without a reference the log-prob, of
    what the loss compares, sums or means per token; ``logps/*``; and under ``metrics`` the tokens
    of responses, the correlation of rewards with them (of pairs: of their differences) and the NLL
    that is trained. In ``rewards/accuracies`` a tie counts one half, and a judged response is
    right on its side of z.

    Example: ``PreferenceObjective(loss=DPOConfig(beta=0.2))``
    """

    loss: Any = field(default_factory=DPOConfig)  # config of a registered loss
    metrics: str = "preference"

    @property
    def columns(self) -> tuple[str, ...]:
        """See ``loss.Objective``."""
        needed = {
            "weight_R": self._loss.nll_weight > 0,
            "ref_logprobs_R": self._loss.needs_reference,
            "label_U": self._is_judged,
            "kl_U": self._loss.needs_kl,
        }
        return ("weight_U", *(name for name, is_needed in needed.items() if is_needed))

    def __call__(self, outputs: Outputs, batch: LossBatch) -> Loss:
        """Evaluate one micro-batch."""
        inputs = self._judged(outputs, batch) if self._is_judged else self._pairs(outputs, batch)
        values_U = preference_losses.get(self.loss.kind).target(inputs, self.loss)
        measured_U = self._measured(inputs)
        if not self._loss.nll_weight:
            return Loss(values_U=values_U, diagnostics_U=measured_U)
        nll_R = -outputs.scores_R
        return Loss(
            values_R=self._loss.nll_weight * nll_R,
            values_U=values_U,
            diagnostics_R=Diagnostics(means={f"{self.metrics}/nll": nll_R.detach()}),
            diagnostics_U=measured_U,
        )

    @property
    def _loss(self) -> PreferenceLossConfig:
        config: PreferenceLossConfig = self.loss
        return config

    @property
    def _is_judged(self) -> bool:
        return self._loss.inputs is JudgedInputs

    def _pairs(self, outputs: Outputs, batch: LossBatch) -> PairInputs:
        policy_I = _response_sums(outputs.scores_R, batch)
        tokens_I = _token_counts(batch)
        ref_I = None
        if self._loss.needs_reference:
            ref_I = _response_sums(batch.columns["ref_logprobs_R"], batch)
        return PairInputs(
            policy_chosen_U=_of_units(policy_I, batch, place=0),
            policy_rejected_U=_of_units(policy_I, batch, place=1),
            chosen_tokens_U=_of_units(tokens_I, batch, place=0).clamp(min=1),
            rejected_tokens_U=_of_units(tokens_I, batch, place=1).clamp(min=1),
            ref_chosen_U=None if ref_I is None else _of_units(ref_I, batch, place=0),
            ref_rejected_U=None if ref_I is None else _of_units(ref_I, batch, place=1),
        )

    def _judged(self, outputs: Outputs, batch: LossBatch) -> JudgedInputs:
        assert batch.num_items == batch.num_units, "a judged unit is one response"
        assert self._loss.needs_reference and not self._loss.nll_weight, self._loss
        kl_U = batch.columns["kl_U"].double() if self._loss.needs_kl else None
        policy_U = _response_sums(outputs.scores_R, batch)
        return JudgedInputs(
            policy_U=policy_U,
            ref_U=_response_sums(batch.columns["ref_logprobs_R"], batch),
            tokens_U=_token_counts(batch),
            is_good_U=batch.columns["label_U"] > 0.5,
            kl_U=policy_U.new_zeros(batch.num_units) if kl_U is None else kl_U,
        )

    def _measured(self, inputs: PairInputs | JudgedInputs) -> Diagnostics:
        if isinstance(inputs, JudgedInputs):
            return self._measured_judged(inputs)
        return self._measured_pairs(inputs)

    def _measured_pairs(self, x: PairInputs) -> Diagnostics:
        chosen_U, rejected_U = x.policy_chosen_U, x.policy_rejected_U
        if self._loss.needs_reference:
            chosen_U, rejected_U = x.chosen_logratio_U, x.rejected_logratio_U
        if self._loss.per_token:
            chosen_U, rejected_U = chosen_U / x.chosen_tokens_U, rejected_U / x.rejected_tokens_U
        margin_U = self._loss.beta * (chosen_U - rejected_U).detach()
        means = {
            "rewards/chosen": self._loss.beta * chosen_U,
            "rewards/rejected": self._loss.beta * rejected_U,
            "rewards/margins": margin_U,
            "rewards/accuracies": half_for_ties(margin_U),
            "logps/chosen": x.policy_chosen_U,
            "logps/rejected": x.policy_rejected_U,
            "logps/chosen_per_token": x.chosen_mean_U,
            "logps/rejected_per_token": x.rejected_mean_U,
            f"{self.metrics}/chosen_tokens": x.chosen_tokens_U,
            f"{self.metrics}/rejected_tokens": x.rejected_tokens_U,
        }
        longer_U = x.chosen_tokens_U - x.rejected_tokens_U
        return Diagnostics(
            means={name: each.detach() for name, each in means.items()},
            correlations={f"{self.metrics}/length_correlation": (margin_U, longer_U)},
        )

    def _measured_judged(self, x: JudgedInputs) -> Diagnostics:
        reward_U = (self._loss.beta * x.logratio_U).detach()
        above_U = reward_U - self._loss.beta * x.kl_U
        means = {"rewards/accuracies": half_for_ties(above_U.where(x.is_good_U, -above_U))}
        if self._loss.needs_kl:
            means[f"{self.metrics}/kl"] = x.kl_U
        both = {
            "rewards": reward_U,
            "logps": x.policy_U.detach(),
            "tokens": x.tokens_U,
            "per_token": (x.policy_U / x.tokens_U).detach(),
        }
        parts: dict[str, tuple[Tensor, Tensor]] = {}
        for side, flag_U in (("chosen", x.is_good_U), ("rejected", ~x.is_good_U)):
            names = {
                f"rewards/{side}": "rewards",
                f"logps/{side}": "logps",
                f"logps/{side}_per_token": "per_token",
                f"{self.metrics}/{side}_tokens": "tokens",
            }
            parts |= {name: (both[what], flag_U) for name, what in names.items()}
        return Diagnostics(
            means=means,
            part_means=parts,
            differences={"rewards/margins": (reward_U, x.is_good_U)},
            correlations={f"{self.metrics}/length_correlation": (reward_U, x.tokens_U)},
        )


def _response_sums(values_R: Tensor, batch: LossBatch) -> Tensor:
    """Sum over each response (I,), in float64; 0 in units that do not count."""
    counted_R = batch.counted_U[batch.unit_I[batch.item_R]]
    kept_R = values_R.masked_fill(~counted_R, 0.0).double()
    return item_sums(kept_R, item_R=batch.item_R, num_items=batch.num_items)


def _token_counts(batch: LossBatch) -> Tensor:
    ones_R = batch.item_R.new_ones(len(batch.item_R)).double()
    return item_sums(ones_R, item_R=batch.item_R, num_items=batch.num_items)


def _of_units(values_I: Tensor, batch: LossBatch, *, place: int) -> Tensor:
    return item_of_units(values_I, unit_I=batch.unit_I, num_units=batch.num_units, place=place)
