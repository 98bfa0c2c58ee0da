"""The benchmark's trainer on a tiny model: it learns, and what it writes is a reward model."""

import importlib.util
import re
from pathlib import Path

import torch
from reward_models import load_plain_classifier
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlpost.training.reward.scorer import check_reward_model
from rlpost.training.reward.settings import RewardModelConfig

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "train_reward_model.py"


def script():
    spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_writes_a_trained_reward_model(tiny_model, tmp_path):
    module, lines = script(), []
    torch.manual_seed(0)
    found = module.train(
        tmp_path,
        base=str(tiny_model),
        steps=10,
        batch=2,
        lr=1e-3,
        layers=1,
        samples=2,
        report=lines.append,
    )
    assert 0 <= found <= 1
    assert len(lines) == 3
    check_reward_model(str(tmp_path), RewardModelConfig(), field="reward.path")
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


def test_right_answers_are_set_against_wrong_ones():
    module = script()
    answers = [module.Answer([1], right=right) for right in (False, True, False, True)]
    scores = [torch.tensor(score) for score in (5.0, 1.0, 2.0, 4.0)]
    assert module.margins(scores, answers).tolist() == [-4, -1, -1, 2]


def test_own_answers_are_judged_against_their_own_question(tiny_model, monkeypatch):
    module = script()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)

    def sample(model, prompts, *, count, max_tokens, end):
        assert count == 2
        for prompt in prompts:
            a, b, *opening = map(int, re.findall(r"\d+", tokenizer.decode(prompt)))
            assert opening in ([], [a, b])
            assert max_tokens < module.MAX_TOKENS if opening else max_tokens == module.MAX_TOKENS
            yield from (tokenizer(text)["input_ids"] for text in (f"{a * b}", f"no, {a + b + 1}"))

    monkeypatch.setattr(module, "_sample", sample)
    questions = module.questions_of(tokenizer, module.Split.HELDOUT)
    module.answer(questions, path=tiny_model, tokenizer=tokenizer, count=4)
    assert len(questions) == 29
    for question in questions:
        assert [answer.right for answer in question.own] == [True, False] * 2


def test_a_sampled_answer_ends_with_its_end_token(tiny_model):
    module = script()
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    torch.manual_seed(0)
    prompts = [[5, 6, 7], [8, 9, 10]]
    free = module._sample(model, prompts, count=20, max_tokens=9, end=0)
    assert len(free) == 40
    assert {len(ids) for ids in free if 0 not in ids} <= {9}
    assert all(0 not in ids[:-1] for ids in free)
