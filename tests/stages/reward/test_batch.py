"""What of a row is scored, and that reinforcement learning reads the same tokens."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from episodes import episode, trajectory
from reward_models import build_step_model

from rlpost.data.conversation.preferences import PairEncoder
from rlpost.data.conversation.steps import StepwiseEncoder
from rlpost.data.encoder import PromptEncoder
from rlpost.data.example import Example
from rlpost.data.records import Pair, Stepwise
from rlpost.data.rows import Row
from rlpost.models.tiny import byte_tokenizer
from rlpost.stages.reward.batch import PairPacker, StepPacker, pair_unit, pairs_of
from rlpost.stages.supervised.batch import ExamplePacker
from rlpost.training.reward.reader import RewardReader, RewardSample

TOKENIZER = byte_tokenizer()
STEPS = ("6 * 7", "is 42.")


def pair(prompt: str = "hi", chosen: str = "good", rejected: str = "bad!!", margin: float = 0.0):
    record = Pair(
        prompt=prompt, chosen=chosen, rejected=rejected, columns={"m": margin}, address="p.jsonl:1"
    )
    return PairEncoder(TOKENIZER, margin_column="m").encode(record)


def test_a_response_is_scored_at_its_end_of_turn_and_nothing_follows_it():
    unit = pair_unit(pairs_of(pair())[0], number=4)
    assert TOKENIZER.decode(unit.prompt).endswith("<|im_start|>assistant\n")
    texts = [TOKENIZER.decode(item.ids) for item in unit.items]
    assert texts == ["good<|im_end|>", "bad!!<|im_end|>"]
    assert [item.number for item in unit.items] == [4, 5]
    for item in unit.items:
        assert item.scored.tolist() == [False] * (len(item.ids) - 1) + [True]


@pytest.mark.parametrize("max_tokens", [4000, 90])
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_weights_are_those_of_the_whole_batch(max_tokens, num_ranks):
    rows = [each for n in range(5) for each in pair(prompt=f"{n}" * n or "?", margin=n / 2)]
    packer = PairPacker(num_ranks=num_ranks, max_tokens=max_tokens, has_margins=True)
    packed = packer(rows)
    real = [batch for mine in packed.batches for batch in mine if not batch.is_dummy]
    weights = np.concatenate([batch.columns["weight_U"] for batch in real])
    assert weights.tolist() == pytest.approx([1 / 5] * 5)
    margins = {
        int(number): margin
        for batch in real
        for number, margin in zip(batch.number_U, batch.columns["margin_U"], strict=True)
    }
    assert margins == {n: n / 2 for n in range(5)}
    lengths = [(5.0, 6.0)] * 5  # "good" and "bad!!" with their ends of turn
    names = ("chosen_tokens_U", "rejected_tokens_U")
    columns = (np.concatenate([batch.columns[name] for batch in real]).tolist() for name in names)
    assert list(zip(*columns, strict=True)) == lengths
    for batch in real:
        assert batch.target_R.tolist() == [TOKENIZER.eos_token_id] * len(batch.target_R)
        assert batch.unit_I.tolist() == [n for n in range(len(batch.number_U)) for _ in range(2)]


def stepwise() -> Example:
    record = Stepwise(prompt="hi", completions=STEPS, labels=(1.0, 0.25), address="s.jsonl:1")
    (example,) = StepwiseEncoder(TOKENIZER).encode(record)
    return example


def test_every_step_of_the_batch_weighs_the_same():
    short = Stepwise(prompt="hi", completions=STEPS[:1], labels=(0.0,), address="s.jsonl:2")
    packer = StepPacker(examples=ExamplePacker(num_ranks=1, max_tokens=60, fill=False))
    packed = packer([stepwise(), *StepwiseEncoder(TOKENIZER).encode(short)])
    weights, labels = packed.column("weight_R"), packed.column("labels_R")
    assert {n: w.tolist() for n, w in weights.items()} == {
        0: pytest.approx([1 / 3] * 2),
        1: pytest.approx([1 / 3]),
    }
    assert {n: each.tolist() for n, each in labels.items()} == {0: [1.0, 0.25], 1: [0.0]}
    assert TOKENIZER.decode(packed.batches[0][0].target_R)[0] in ".7"


def sampled(text: str) -> RewardSample:
    """A response as reinforcement learning has it: what was sampled ends with its stop token."""
    prompt = PromptEncoder(TOKENIZER).encode(
        Row(columns={"prompt": "hi"}, address="t.jsonl:1"), uid="0:0"
    )
    ids = TOKENIZER(text + "<|im_end|>", add_special_tokens=False)["input_ids"]
    response = trajectory(ids, prompt_ids=prompt.token_ids)
    return RewardSample.of(prompt, episode(response, text=text))


@pytest.fixture(params=["same tokens", "other tokens"])
def policy(request, tmp_path, tiny_model) -> Path:
    """A policy with the reward model's tokenizer, or with another one."""
    if request.param == "same tokens":
        return tiny_model
    other = byte_tokenizer()
    other.add_tokens(["good"])
    other.save_pretrained(tmp_path / "other")
    return tmp_path / "other"


def test_the_reward_role_reads_what_training_read_of_a_response(policy, tiny_reward, tmp_path):
    unit = pair_unit(pairs_of(pair())[0], number=0)
    reward = ours(tiny_reward, tmp_path / "reward")
    reader = RewardReader(model_path=str(reward), policy_path=str(policy), name="judge")
    found = reader.read(sampled("good"))
    trained = [*unit.prompt, *unit.items[0].ids]
    assert list(found.ids) == trained
    assert list(found.ends) == [len(trained) - 1]


def test_the_reward_role_reads_what_training_read_of_steps(policy, tiny_model, tmp_path):
    model = build_step_model(tmp_path / "steps", tiny_model)
    reader = RewardReader(
        model_path=str(model), policy_path=str(policy), name="judge", step_separator="\n"
    )
    found, example = reader.read(sampled("\n".join(STEPS))), stepwise()
    assert list(found.ids)[: len(example)] == example.ids.tolist()  # an end of turn follows
    assert list(found.ends) == np.flatnonzero(example.trained).tolist()


def ours(model: Path, directory: Path) -> Path:
    """The model with the record of a run of ``rlpost reward`` beside it."""
    import shutil

    shutil.copytree(model, directory)
    (directory / "rlpost.json").write_text('{"step": 3, "base": "tiny", "stage": "reward"}')
    return directory


def test_a_foreign_reward_model_reads_its_own_template(tiny_reward, tmp_path):
    """Negative control: what the template writes after an answer is read by others alone."""
    other = byte_tokenizer()
    other.add_tokens(["good"])
    other.save_pretrained(tmp_path / "other")
    paths = {"policy_path": str(tmp_path / "other"), "name": "judge"}
    foreign = RewardReader(model_path=str(tiny_reward), **paths).read(sampled("good"))
    own = RewardReader(model_path=str(ours(tiny_reward, tmp_path / "own")), **paths)
    assert list(foreign.ids) == [*own.read(sampled("good")).ids, *TOKENIZER("\n")["input_ids"]]


def test_what_follows_the_answer_is_no_matter():
    chosen, rejected = pair()
    longer = replace(
        chosen,
        ids=np.append(chosen.ids, chosen.ids[:3]),
        trained=np.append(chosen.trained, [False] * 3),
    )
    one, other = (pair_unit((each, rejected), number=0) for each in (chosen, longer))
    assert one.items[0].ids == other.items[0].ids
