"""A lone rank's own gradient sum against DeepSpeed's: the same bits, and nothing left over."""

import torch
from one_rank import trainer
from packed_groups import pack_into, random_groups

from rlpost.algorithms.kl import KLConfig
from rlpost.algorithms.losses import ReinforceConfig
from rlpost.algorithms.policy_objective import PolicyObjective
from rlpost.training.settings import DType
from rlpost.training.zero.deepspeed_gradients import LoneGradients

OBJECTIVE = PolicyObjective(loss=ReinforceConfig(), kl=KLConfig())


def train(built, *, steps: int = 3) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Gradient norms and final weights of steps of three micro-batches; it sleeps after each."""
    norms = []
    for step in range(1, steps + 1):
        (batches,) = pack_into(*random_groups(seed=step), num_micro_batches=3).batches
        built.forward_backward(batches, OBJECTIVE)
        norms.append(built.optim_step(step)["actor/grad_norm"])
        built.sleep()
    return norms, {name: tensor.clone() for name, tensor in built.served.tensors()}


def test_norms_and_weights_have_the_bits_of_deepspeeds_own_sum(tiny_model, monkeypatch):
    with trainer(tiny_model, dtype=DType.bfloat16, lr=1e-2) as built:
        assert built._gradients is not None
        norms, weights = train(built)
    monkeypatch.setattr(LoneGradients, "of", lambda engine: None)
    with trainer(tiny_model, dtype=DType.bfloat16, lr=1e-2) as built:
        assert built._gradients is None
        expected_norms, expected = train(built)
    assert norms == expected_norms and len(set(norms)) == 3
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights.items())


def test_a_parameter_without_a_gradient_keeps_none_of_the_last_step(tiny_model):
    from deepspeed.utils import safe_get_full_grad

    with trainer(tiny_model) as built:
        train(built, steps=1)
        model = built.module.model.model
        built.engine.set_gradient_accumulation_boundary(True)
        built.engine.backward(model.norm.weight.sum())
        assert safe_get_full_grad(model.norm.weight).eq(1).all()
        assert not safe_get_full_grad(model.embed_tokens.weight).any()
