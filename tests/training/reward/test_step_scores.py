"""A process reward model's score of a response is that of its steps, as transformers has them."""

import math
from pathlib import Path

import pytest
import torch
from reward_models import build_step_model

from rlpost.errors import UserError
from rlpost.training.reward.reader import RewardSample
from rlpost.training.reward.scorer import RewardScorer, reduced
from rlpost.training.reward.settings import RewardEngine, RewardModelConfig, StepReduction

TEXTS = ("6 * 7\n= 42", "one step", "a\nbb\nccc")


@pytest.fixture(scope="module", params=[1, 2])
def step_model(request, tmp_path_factory, tiny_model) -> Path:
    directory = tmp_path_factory.mktemp("models") / f"steps{request.param}"
    return build_step_model(directory, tiny_model, num_labels=request.param)


def scorer(path, policy_path, **options) -> RewardScorer:
    cfg = RewardModelConfig(path=str(path), threads=1, **options)
    return RewardScorer(cfg, model_path=str(path), policy_path=str(policy_path), name="steps")


def samples(tokenizer) -> list[RewardSample]:
    found = []
    for text in TEXTS:
        prompt = tokenizer("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")["input_ids"]
        response = tokenizer(text + "<|im_end|>")["input_ids"]
        found.append(
            RewardSample(
                token_ids=(*prompt, *response),
                num_prompt_tokens=len(prompt),
                conversation=({"role": "user", "content": "hi"},),
                plain_prompt="hi",
                text=text,
            )
        )
    return found


def plain_probabilities(path: Path, sample: RewardSample, ends: list[int]) -> list[float]:
    from transformers import AutoModelForTokenClassification

    model = AutoModelForTokenClassification.from_pretrained(path, dtype=torch.float32).eval()
    with torch.no_grad():
        logits_TK = model(torch.tensor([sample.token_ids])).logits[0]
    if logits_TK.shape[1] == 1:
        return logits_TK[ends, 0].sigmoid().tolist()
    return logits_TK[ends].softmax(-1)[:, 1].tolist()


@pytest.mark.parametrize("reduction", [None, *StepReduction])
def test_rewards_are_those_of_the_steps(step_model, tiny_model, reduction):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(step_model)
    asked = samples(tokenizer)
    verdicts = scorer(step_model, tiny_model, reduce=reduction).judge(asked)
    for sample, verdict in zip(asked, verdicts, strict=True):
        ids = sample.token_ids
        feeds = tokenizer("\n")["input_ids"]
        inner = [at for at in range(sample.num_prompt_tokens, len(ids)) if [ids[at]] == feeds]
        ends = [*(at - 1 for at in inner), len(ids) - 2]
        right = plain_probabilities(step_model, sample, ends)
        assert len(right) == sample.text.count("\n") + 1
        combine = {"product": math.prod, "last": lambda p: p[-1]}
        expected = combine.get(reduction.value if reduction else "min", min)(right)
        assert verdict.reward == pytest.approx(expected, abs=1e-5)


def test_another_separator_finds_other_steps(step_model, tiny_model):
    from transformers import AutoTokenizer

    asked = samples(AutoTokenizer.from_pretrained(step_model))[:1]
    product = {"reduce": StepReduction.product}
    by_line = scorer(step_model, tiny_model, **product).judge(asked)
    by_paragraph = scorer(step_model, tiny_model, step_separator="\n\n", **product).judge(asked)
    assert by_line[0].reward < by_paragraph[0].reward


def test_by_hand():
    assert reduced([0.0, 50.0], StepReduction.product) == pytest.approx(0.5)
    assert reduced([-1e4, 3.0], StepReduction.min) == 0.0
    assert reduced([0.0, math.log(3)], StepReduction.last) == pytest.approx(0.75)
    assert math.isnan(reduced([1.0, math.inf], StepReduction.min))
    assert reduced([-7.5], None) == -7.5


def test_what_cannot_read_tokens_is_refused(step_model, tiny_model):
    with pytest.raises(UserError, match=r"^reward_models\.steps\.engine=vllm cannot read token"):
        scorer(step_model, tiny_model, engine=RewardEngine.vllm)
