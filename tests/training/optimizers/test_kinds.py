"""What every optimizer declares is what it does, on tensors alone; several real ranks are in
tests/system/test_optimizer_parity.py."""

import pytest
import torch
from plain_optimizers import GAP, RANK, SCALE, SETTINGS, PlainGaLore, plain

from rlpost.errors import UserError
from rlpost.training.optimizers import optimizers
from rlpost.training.optimizers.base import COUNT, Parameter, Place, kept, state_bytes
from rlpost.training.optimizers.build import GroupOptions, grouped, kind_of, set_rate
from rlpost.training.optimizers.galore import leading_basis
from rlpost.training.settings import TrainerConfig

KINDS = [entry.name for entry in optimizers]
LR = 0.01
# As a Llama calls them; one is below the size from which moments have 8 bits.
SHAPES = {
    "model.embed_tokens.weight": (80, 64),
    "model.layers.0.self_attn.q_proj.weight": (64, 64),
    "model.layers.0.mlp.up_proj.weight": (96, 64),
    "model.layers.0.mlp.down_proj.weight": (64, 96),
    "model.layers.0.input_layernorm.weight": (64,),
}


def described(name: str) -> Parameter:
    return Parameter(
        shape=SHAPES[name],
        place=Place.end if "embed" in name else Place.hidden,
        head_dim=32 if "q_proj" in name else None,
    )


def config(kind: str):
    options = {"rank": RANK, "gap": GAP, "scale": SCALE} if kind == "galore" else {}
    return optimizers.get(kind).config(**options)


class Built:
    """An optimizer of a kind over weights that are the same each time."""

    def __init__(self, kind: str, **settings):
        torch.manual_seed(0)
        self.weights = {name: torch.randn(shape) for name, shape in SHAPES.items()}
        self.kind = kind_of(config(kind), TrainerConfig(**SETTINGS | settings))
        parameters = {name: described(name) for name in SHAPES}
        groups = grouped(self.kind, self.weights, parameters, weight_decay=0.1)
        self.torch = self.kind.make(groups)
        self.gradients = torch.Generator().manual_seed(1)

    def group(self, weight) -> dict:
        return next(
            group
            for group in self.torch.param_groups
            if any(weight is each for each in group["params"])
        )

    def draw(self) -> dict[str, torch.Tensor]:
        return {n: torch.randn(s, generator=self.gradients) for n, s in SHAPES.items()}

    def update(self, gradients) -> None:
        for name, gradient in gradients.items():
            self.weights[name].grad = gradient.clone()
        set_rate(self.torch, LR)
        self.torch.step()


@pytest.mark.parametrize("kind", KINDS)
def test_ten_updates_are_those_of_the_reference(kind):
    built = Built(kind)
    expected, reference = {n: w.clone() for n, w in built.weights.items()}, plain(kind)
    before = {n: w.clone() for n, w in expected.items()}
    for _ in range(10):
        gradients = built.draw()
        built.update(gradients)
        reference.update(expected, gradients, LR)
    for name, weight in built.weights.items():
        difference = (weight - expected[name]).abs()
        assert (weight - before[name]).abs().mean() > 0.1 * LR
        if kind == "adamw_8bit":  # single entries differ more, up to a few steps
            assert difference.mean() < 3e-3, name
        else:
            assert difference.max() < 2e-6, name


def test_galore_would_differ_if_signs_were_forgotten():
    built, careless = Built("galore"), PlainGaLore()
    careless.keeps_signs = False
    expected = {n: w.clone() for n, w in built.weights.items()}
    for step in range(10):
        gradients = built.draw()
        built.update(gradients)
        careless.update(expected, gradients, LR)
        worst = max((built.weights[n] - w).abs().max() for n, w in expected.items())
        assert (worst > 1e-3) == (step >= GAP), step


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_has_the_declared_names_shapes_and_dtypes(kind):
    built = Built(kind)
    built.update(built.draw())
    total = 0
    for name, weight in built.weights.items():
        state, group = built.torch.state[weight], built.group(weight)
        declared = kept(built.kind, torch.empty(SHAPES[name], device="meta"), group)
        for key, tensor in declared.items():
            assert (state[key].shape, state[key].dtype) == (tensor.shape, tensor.dtype), key
            total += state[key].nbytes
        assert int(state[COUNT]) == 1
        tables = {"qmap1", "qmap2", "RMS"}  # constants, and what is computed before it is read
        assert state.keys() - declared.keys() - tables == {COUNT}
    assert state_bytes(built.kind, [described(name) for name in SHAPES]) == total


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_that_was_copied_out_and_in_goes_on_bit_equal(kind):
    first, second = Built(kind), Built(kind)
    for _ in range(3):
        first.update(first.draw())
    for name, weight in second.weights.items():
        weight.copy_(first.weights[name])
        source = first.torch.state[first.weights[name]]
        fresh = second.kind.state(weight, second.group(weight), step=3)
        for key in fresh.keys() - {COUNT}:
            fresh[key].copy_(source[key])
        second.torch.state[weight] = fresh
    for _ in range(GAP):  # across a projection that is taken anew
        gradients = first.draw()
        first.update(gradients)
        second.update(gradients)
    assert all(torch.equal(w, second.weights[n]) for n, w in first.weights.items())


def test_state_sizes_by_hand():
    sizes = {
        kind: state_bytes(kind_of(config(kind), TrainerConfig()), [described(n) for n in SHAPES])
        for kind in KINDS
    }
    embedding, query, mlp, norm = 80 * 64, 64 * 64, 96 * 64, 64
    weights = embedding + query + 2 * mlp + norm
    assert sizes["adamw"] == 8 * weights
    assert sizes["adam_mini"] == 4 * (weights + 80 + 2 + 96 + 64 + 1)
    assert sizes["adafactor"] == 4 * (80 + 64 + 64 + 64 + 2 * (96 + 64) + 64)
    assert sizes["muon"] == 4 * (query + 2 * mlp) + 8 * (embedding + norm)
    projected = 64 * RANK + 2 * 64 * RANK + 2 * (64 * RANK + 2 * 96 * RANK)
    assert sizes["galore"] == 8 * (embedding + norm) + 4 * projected + 3 * 8
    assert sizes["adamw_8bit"] == 2 * (weights - norm) * (1 + 4 / 256) + 8 * norm


def test_a_gradient_of_zeros_has_no_directions():
    """The first gradients of half of a fresh adapter's matrices are zeros."""
    built = Built("galore")
    name = "model.layers.0.mlp.up_proj.weight"
    before = built.weights[name].clone()
    built.update(built.draw() | {name: torch.zeros(SHAPES[name])})
    state = built.torch.state[built.weights[name]]
    assert torch.equal(built.weights[name], before) and not state["basis"].any()
    assert int(state["updates"]) == 0
    built.update(built.draw())
    basis = state["basis"]
    assert torch.allclose(basis.T @ basis, torch.eye(RANK), atol=1e-5)
    assert int(state["updates"]) == 1


def test_a_basis_spans_the_leading_directions_and_keeps_its_signs():
    torch.manual_seed(0)
    left, right = torch.linalg.qr(torch.randn(9, 3))[0], torch.linalg.qr(torch.randn(6, 3))[0]
    gradient = left @ torch.diag(torch.tensor([3.0, 2.0, 1.0])) @ right.T
    basis = leading_basis(gradient, torch.zeros(6, 2), rank=2)
    assert torch.allclose(basis @ basis.T, right[:, :2] @ right[:, :2].T, atol=1e-5)
    turned = leading_basis(gradient, basis * torch.tensor([-1.0, 1.0]), rank=2)
    assert torch.allclose(turned, basis * torch.tensor([-1.0, 1.0]))
    wide = leading_basis(gradient.T, torch.zeros(6, 2), rank=2)
    assert torch.allclose(wide @ wide.T, basis @ basis.T, atol=1e-5)


def test_groups_have_rates_and_decays_of_their_own():
    kind = kind_of(config("adam_mini"), TrainerConfig())
    weights = {name: torch.zeros(shape) for name, shape in SHAPES.items()}

    def group_of(name: str) -> GroupOptions:
        return GroupOptions(rate=16.0, weight_decay=0.0) if "mlp" in name else GroupOptions()

    parameters = {name: described(name) for name in SHAPES}
    groups = grouped(kind, weights, parameters, weight_decay=0.1, group_of=group_of)
    built = kind.make(groups)
    set_rate(built, 0.5)
    found = [
        (g["lr"], g["weight_decay"], g["block_rows"], len(g["params"])) for g in built.param_groups
    ]
    assert found == [(0.5, 0.1, 1, 2), (0.5, 0.1, 32, 1), (8.0, 0.0, 1, 2)]


def test_muon_without_momentum_has_no_nesterov():
    with pytest.raises(UserError, match=r"nesterov=true has no effect .* set optimizer\.nesterov"):
        optimizers.get("muon").config(momentum=0.0).check("optimizer")
