"""The benchmark's trainer on a tiny model: it learns, and what it writes is a reward model."""

import importlib.util
from pathlib import Path

import torch
from reward_models import load_plain_classifier

from rlpost.training.reward_scorer import check_reward_model

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "train_reward_model.py"


def script():
    spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_writes_a_trained_reward_model(tiny_model, tmp_path):
    module, lines = script(), []
    torch.manual_seed(0)
    found = module.train(
        tmp_path, base=str(tiny_model), steps=10, batch=2, lr=1e-3, layers=1, report=lines.append
    )
    assert 0 <= found <= 1
    assert len(lines) == 2
    check_reward_model(str(tmp_path), field="reward")
    model, start = load_plain_classifier(tmp_path), load_plain_classifier(tiny_model)
    assert model.score.weight.any()
    first, last = ("model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight")
    assert torch.equal(model.get_parameter(first), start.get_parameter(first))
    assert not torch.equal(model.get_parameter(last), start.get_parameter(last))


def test_a_wrong_product_is_wrong():
    module = script()
    rng = module.random.Random(0)
    for a, b in ((2, 2), (7, 8), (12, 12)):
        wrong = module.wrong_products(a, b, rng, count=5)
        assert len(set(wrong)) == 5
        assert a * b not in wrong
        assert min(wrong) > 0
