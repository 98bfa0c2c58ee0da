"""Our preference losses give TRL's loss and gradient on the same numbers; skipped without TRL.

TRL's arithmetic lives in methods of trainers, so they are called on a stand-in that has only the
settings they read. Verified with TRL 1.16.0. docs/preference.md lists where we differ.
"""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from preference_batches import config_of, evaluate, random_rows, responses

pytest.importorskip("trl", exc_type=ImportError)
from trl import DPOTrainer, KTOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

# Ours -> TRL's trainer and settings, with the same numbers.
CASES = {
    ("dpo", "sigmoid"): {},
    ("hinge", "hinge"): {},
    ("ipo", "ipo"): {},
    ("robust", "robust"): {"label_smoothing": 0.1},
    ("rpo", "sigmoid, sft"): {"loss_weights": [1.0, 1.0]},
    ("cpo", "sigmoid"): {},
    ("simpo", "simpo"): {"simpo_gamma": 1.0},
    ("orpo", "orpo"): {},
    ("kto", "kto"): {},
}


class _OneProcess:
    device = torch.device("cpu")

    def gather(self, tensor):
        return tensor

    gather_for_metrics = gather


def padded(rows, which):
    """Log-probs (S, L), with 0 behind each response's end, and a mask of its tokens."""
    both = [responses(row) for row in rows]
    in_order = [each[place] for place in range(len(both[0])) for each in both]
    width = max(len(each.policy) for each in in_order)
    values = [[*getattr(each, which), *[0.0] * (width - len(each.policy))] for each in in_order]
    mask = [[1] * len(each.policy) + [0] * (width - len(each.policy)) for each in in_order]
    return torch.tensor(values, dtype=torch.float64), torch.tensor(mask)


def outputs(policy_SL):
    """What TRL's fused head returns."""
    zeros_SL = torch.zeros_like(policy_SL).detach()
    return SimpleNamespace(
        log_probs=policy_SL, entropy=zeros_SL, mean_logits=zeros_SL, is_top1=zeros_SL.bool()
    )


def trl_loss(rows, config, kind, settings):
    """TRL's loss of a batch and its gradient, as (S, L) with chosen responses first."""
    policy_SL, mask_SL = padded(rows, "policy")
    policy_SL.requires_grad_()
    ref_SL, _ = padded(rows, "ref")
    prompted_SL = torch.cat([torch.zeros_like(mask_SL[:, :1]), mask_SL], dim=1)
    inputs = {
        "input_ids": prompted_SL.clone(),
        "attention_mask": prompted_SL.clone() + 1,
        "completion_mask": prompted_SL,
    }
    stand_in = SimpleNamespace(
        beta=config.beta, loss_type=kind, label_smoothing=0.0, alpha=0.0, ld_alpha=None,
        loss_types=kind.split(", "), loss_weights=[1.0],
        f_divergence_type="reverse_kl", use_weighting=False, aux_loss_enabled=False,
        precompute_ref_logps=True, calculate_KL=True, desirable_weight=1.0,
        undesirable_weight=1.0, accelerator=_OneProcess(), _total_train_tokens=0, _tp_size=1,
        _metrics=defaultdict(lambda: defaultdict(list)), model=SimpleNamespace(training=True),
        _compute_kl_logps=lambda *_: torch.full((1,), 0.7, dtype=torch.float64),
    )  # fmt: skip
    vars(stand_in).update(settings)
    num = len(rows)
    if config.kind == "kto":
        inputs |= {
            "label": torch.tensor([row.is_good for row in rows]),
            "ref_logps": ref_SL.sum(1),
            "ref_KL_logps": torch.zeros(1, dtype=torch.float64),
        }
        loss = KTOTrainer._compute_loss(stand_in, lambda **_: outputs(policy_SL), inputs, False)
    elif config.needs_reference:
        ref_S = ref_SL.sum(1)
        inputs |= {"ref_chosen_logps": ref_S[:num], "ref_rejected_logps": ref_S[num:]}
        loss = DPOTrainer._compute_loss(stand_in, lambda **_: outputs(policy_SL), inputs, False)
    else:
        loss = _reference_free(stand_in, policy_SL, mask_SL, config)
    (gradient_SL,) = torch.autograd.grad(loss, policy_SL)
    return loss.item(), gradient_SL * mask_SL


def _reference_free(stand_in, policy_SL, mask_SL, config):
    """As ``get_batch_loss_metrics`` of TRL's CPO and ORPO trainers adds up."""
    logps_S = policy_SL.sum(1) / (mask_SL.sum(1) if config.per_token else 1)
    chosen_U, rejected_U = logps_S.chunk(2)
    num = len(chosen_U)
    nll = -(policy_SL[:num] * mask_SL[:num]).sum() / mask_SL[:num].sum()
    if config.kind == "orpo":
        return nll - ORPOTrainer.odds_ratio_loss(stand_in, chosen_U, rejected_U)[0].mean()
    losses_U = CPOTrainer.cpo_loss(stand_in, chosen_U, rejected_U)[0]
    return losses_U.mean() + config.nll_weight * nll


@pytest.mark.parametrize(("ours", "theirs"), CASES, ids=lambda name: name)
def test_loss_and_gradient_are_those_of_trl(ours, theirs):
    config = config_of(ours)
    rows = random_rows(config, num=4, seed=1)
    found = evaluate(rows, config)
    loss, gradient_SL = trl_loss(rows, config, theirs, CASES[ours, theirs])
    tolerance = 1e-6 if ours == "orpo" else 1e-12  # which computes in float32
    assert found.total == pytest.approx(loss, abs=tolerance)
    for row, both in enumerate(rows):
        for place, each in enumerate(responses(both)):
            expected = gradient_SL[row + place * len(rows), : len(each.policy)]
            torch.testing.assert_close(
                found.gradients[row, place], expected, rtol=0, atol=tolerance
            )
