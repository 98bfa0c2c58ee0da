"""A score is transformers' own, whatever it is batched with."""

from pathlib import Path

import numpy as np
import pytest
import torch
from chat_templates import STRICT_TURNS
from reward_models import load_plain_classifier, plain_score

from rlpost.bounds import check_config
from rlpost.errors import DataError, UserError
from rlpost.training.reward.classifier import batches_by_length
from rlpost.training.reward.reader import RewardSample
from rlpost.training.reward.scorer import RewardScorer, check_reward_model
from rlpost.training.reward.settings import RewardModelConfig, StepReduction


def scorer(path, *, policy_path=None, **options) -> RewardScorer:
    return RewardScorer(
        RewardModelConfig(path=str(path), threads=1, **options),
        model_path=str(path),
        policy_path=str(policy_path or path),
        name="helpful",
    )


def sequences(seed: int = 0) -> list[list[int]]:
    """Ragged, none containing the pad id 0."""
    rng = np.random.default_rng(seed)
    return [rng.integers(3, 256, n).tolist() for n in (5, 40, 1, 17, 17, 90, 2)]


def test_scores_are_transformers_own(tiny_reward):
    plain = load_plain_classifier(tiny_reward)
    expected = [plain_score(plain, s) for s in sequences()]
    assert scorer(tiny_reward).scores(sequences()) == pytest.approx(expected, abs=1e-5)
    assert np.std(expected) > 0.1  # negative control: the scores differ


@pytest.mark.parametrize("budget", [1, 64, 100_000])
def test_batching_and_order_change_no_score(tiny_reward, budget):
    expected = scorer(tiny_reward).scores(sequences())
    found = scorer(tiny_reward, max_tokens_per_batch=budget).scores(sequences()[::-1])
    assert found[::-1] == pytest.approx(expected, abs=1e-5)


def test_a_sequence_may_end_with_the_pad_token(tiny_reward):
    """Negative control: transformers' pooling reads the token before it instead."""
    ends_with_pad = [*sequences()[0], 0]
    plain = load_plain_classifier(tiny_reward)
    (found, longer) = scorer(tiny_reward).scores([ends_with_pad, sequences()[1]])
    hidden = plain.base_model(torch.tensor([ends_with_pad])).last_hidden_state
    assert found == pytest.approx(plain.score(hidden[0, -1]).item(), abs=1e-5)
    assert abs(found - plain_score(plain, ends_with_pad)) > 1e-3
    assert longer == pytest.approx(plain_score(plain, sequences()[1]), abs=1e-5)


def test_a_model_without_a_pad_token_is_scored_all_the_same(tiny_reward, tmp_path):
    from transformers import AutoTokenizer

    model = load_plain_classifier(tiny_reward)
    model.config.pad_token_id = None
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_reward).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="padding token"):
        load_plain_classifier(tmp_path)(torch.tensor([[5, 6], [7, 8]]))
    expected = scorer(tiny_reward).scores(sequences())
    assert scorer(tmp_path).scores(sequences()) == pytest.approx(expected, abs=1e-6)


def test_an_encoder_is_pooled_its_own_way(tmp_path):
    from transformers import AutoModelForSequenceClassification, BertConfig

    from rlpost.models.tiny import byte_tokenizer

    config = BertConfig(
        vocab_size=320, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64, num_labels=1, initializer_range=0.3,
    )  # fmt: skip
    model = AutoModelForSequenceClassification.from_config(config).eval()
    model.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    expected = [plain_score(model, s) for s in sequences()]
    assert scorer(tmp_path).scores(sequences()) == pytest.approx(expected, abs=1e-5)


def sample(**options) -> RewardSample:
    fields = {
        "token_ids": (1, 40, 41, 42),
        "conversation": ({"role": "user", "content": "hi"},),
        "plain_prompt": None,
        "text": "ho",
    }
    return RewardSample(**fields | options)


def renumbered(tiny_reward: Path, directory: Path) -> Path:
    """The same model beside a tokenizer in which two bytes have changed places."""
    from transformers import AutoTokenizer

    load_plain_classifier(tiny_reward).save_pretrained(directory)
    AutoTokenizer.from_pretrained(tiny_reward).save_pretrained(directory)
    file = directory / "tokenizer.json"
    text = file.read_text()
    for old, new in (('"!"', '"_"'), ('"@"', '"!"'), ('"_"', '"@"')):
        text = text.replace(old, new, 1)
    file.write_text(text)
    return directory


def test_the_policys_ids_are_read_when_the_tokenizers_agree(tiny_reward, tiny_model):
    judge = scorer(tiny_reward, policy_path=tiny_model)
    (verdict,) = judge.judge([sample()])
    assert verdict.verifier == "helpful"
    assert verdict.reward == pytest.approx(judge.scores([[1, 40, 41, 42]])[0], abs=1e-6)


def test_text_is_rendered_when_they_do_not(tiny_reward, tiny_model, tmp_path):
    from transformers import AutoTokenizer

    judge = scorer(renumbered(tiny_reward, tmp_path), policy_path=tiny_model)
    own = AutoTokenizer.from_pretrained(tmp_path)
    conversation = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    rendered = own(own.apply_chat_template(conversation, tokenize=False))["input_ids"]
    expected = judge.scores([rendered, rendered])
    found = [v.reward for v in judge.judge([sample(), sample(plain_prompt="hi")])]
    assert found == pytest.approx(expected, abs=1e-6)


def test_a_template_that_refuses_is_a_verdict(tiny_reward, tiny_model, tmp_path):
    from transformers import AutoTokenizer

    path = renumbered(tiny_reward, tmp_path)
    own = AutoTokenizer.from_pretrained(path)
    own.chat_template = STRICT_TURNS
    own.save_pretrained(path)
    system = {"role": "system", "content": "Be brief."}
    asked = sample(conversation=(system, *sample().conversation), address="t.jsonl:7")
    good, bad = scorer(path, policy_path=tiny_model).judge([sample(), asked])
    assert good.reward is not None
    assert bad.reward is None
    assert bad.error.startswith("t.jsonl:7: reward_models.helpful: the model's chat template ref")


def test_a_failure_is_a_verdict_and_never_a_number(tiny_reward):
    judge = scorer(tiny_reward)
    long = tuple(range(3, 203)) * 3  # the tiny model reads 512
    good, bad = judge.judge([sample(), sample(token_ids=long)])
    assert good.reward is not None
    assert bad.reward is None
    assert "600 tokens exceeds the 512" in bad.error
    with pytest.raises(DataError, match=r"reward_models\.helpful: a sequence of 600"):
        judge.scores([long])
    with torch.no_grad():
        judge._engine._model.score.weight.fill_(float("nan"))
    (broken,) = judge.judge([sample()])
    assert (broken.reward, broken.error) == (None, "the score is nan")
    assert judge.judge([]) == []


def test_what_is_no_reward_model_is_refused(tiny_model, tmp_path):
    with pytest.raises(UserError, match="head would start at random"):
        check_reward_model(str(tiny_model), RewardModelConfig(), field="reward.helpful.path")
    from transformers import AutoModelForSequenceClassification, LlamaConfig

    config = LlamaConfig(
        vocab_size=32, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=1, num_labels=2,
    )  # fmt: skip
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="one label, got 2"):
        scorer(tmp_path)


@pytest.mark.parametrize("option", [{"reduce": StepReduction.last}, {"step_separator": "@"}])
def test_options_of_steps_have_no_effect_on_whole_responses(tiny_reward, option):
    (name,) = option
    with pytest.raises(UserError, match=rf"^reward_models\.helpful\.{name} has no effect"):
        scorer(tiny_reward, **option)


def test_batches_hold_like_lengths_within_the_budget():
    lengths = [3, 9, 1, 9, 4, 30]
    batches = batches_by_length(lengths, max_tokens=20)
    assert batches == [[5], [1, 3], [4, 0, 2]]
    assert sorted(i for batch in batches for i in batch) == list(range(6))
    assert batches_by_length([], max_tokens=20) == []


@pytest.mark.parametrize(
    "options",
    [
        {"path": ""},
        {"weight": 0.0},
        {"max_tokens_per_batch": 0},
        {"threads": 0},
        {"gpu_memory_utilization": 0.5},
    ],
)
def test_options_out_of_range_are_refused(options):
    (name,) = options
    with pytest.raises(UserError, match=rf"reward\.{name}(=0.5 has no effect| must)"):
        check_config(RewardModelConfig(**{"path": "some/model"} | options), "reward")
