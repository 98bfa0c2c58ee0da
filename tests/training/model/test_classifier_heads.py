"""Scores are read at their own tokens, and exported classifiers say the same in transformers."""

import json
from pathlib import Path

import pytest
import torch
from packed_groups import pack_into, random_groups, sequences_of
from tiny_families import build_tiny_family

from rlpost.errors import UserError
from rlpost.training.model.classifier_heads import SCORE_HEAD, STEP_HEAD, ClassifierHead
from rlpost.training.model.loading import TrainedModel
from rlpost.training.model.packed_model import ModelInputs
from rlpost.training.zero.deepspeed_weights import save_model

CPU = torch.device("cpu")


def trained(path: Path, head: ClassifierHead) -> TrainedModel:
    return TrainedModel.reward(str(path), head=head, metrics="reward")


def moved(path: Path, head: ClassifierHead):
    """A model that started from ``path``, with a head that says something."""
    module = trained(path, head).load(dtype=torch.float32)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for param in module.score.parameters():
            param.normal_(std=0.3)
    return module


def exported(path: Path, module, head: ClassifierHead, directory: Path):
    import transformers

    save_model(module, trained(path, head), directory, dtype=torch.float32, write=True)
    auto = {1: "AutoModelForSequenceClassification", 2: "AutoModelForTokenClassification"}
    return getattr(transformers, auto[head.num_labels]).from_pretrained(directory).eval()


def plain_steps(model, batch) -> torch.Tensor:
    """The log-odds of the second label at every token of a response."""
    found = []
    for prompt, response in sequences_of(batch):
        logits_T2 = model(torch.tensor([prompt + response])).logits[0, len(prompt) :]
        found.append(logits_T2.log_softmax(-1)[:, 1] - logits_T2.log_softmax(-1)[:, 0])
    return torch.cat(found)


def plain_prefixes(model, batch) -> torch.Tensor:
    """What transformers scores of every beginning of a sequence that ends in its response."""
    found = []
    for prompt, response in sequences_of(batch):
        for end in range(1, len(response) + 1):
            found.append(model(torch.tensor([prompt + response[:end]])).logits[0, 0])
    return torch.stack(found)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma", "gpt2", "gpt_neox"])
@pytest.mark.parametrize(
    ("head", "plain"), [(SCORE_HEAD, plain_prefixes), (STEP_HEAD, plain_steps)]
)
def test_exports_score_in_transformers_as_in_training(tmp_path, family, head, plain):
    path = build_tiny_family(tmp_path / family, family)
    batch = pack_into(*random_groups(num_prompts=2, vocabulary=250)).batches[0][0]
    batch.token_ids_T[:] += 3  # none is the padding token, which transformers' pooling skips
    module = moved(path, head)
    with torch.no_grad():
        (scores_R,) = module(ModelInputs.of(batch, device=CPU))
        theirs_R = plain(exported(path, module, head, tmp_path / "export"), batch)
    torch.testing.assert_close(scores_R, theirs_R, atol=2e-5, rtol=0)
    assert scores_R.std() > 0.1
    again = trained(tmp_path / "export", head).load(dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(again(ModelInputs.of(batch, device=CPU))[0], scores_R)


@pytest.mark.parametrize("head", [SCORE_HEAD, STEP_HEAD])
def test_a_causal_lm_starts_with_every_score_zero(tiny_model, head):
    batch = pack_into(*random_groups()).batches[0][0]
    module = trained(tiny_model, head).load(dtype=torch.float32)
    assert not module(ModelInputs.of(batch, device=CPU))[0].any()


def test_a_score_knows_its_own_token(tiny_model):
    """Negative control: a head that reads the token before it would not see the change."""
    batch = pack_into(*random_groups()).batches[0][0]
    module = moved(tiny_model, SCORE_HEAD)
    inputs = ModelInputs.of(batch, device=CPU)
    with torch.no_grad():
        before_R = module(inputs)[0]
        inputs.token_ids_1T[0, batch.token_R[0]] += 1
        assert (module(inputs)[0] - before_R)[0].abs() > 1e-3


def ending_in_padding(path: Path, directory: Path) -> Path:
    """The model with a tokenizer that pads with its end-of-turn token, as many have."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(path),
        AutoTokenizer.from_pretrained(path),
    )
    model.config.pad_token_id = tokenizer.eos_token_id
    tokenizer.pad_token = tokenizer.eos_token
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def test_transformers_reads_a_padded_answer_at_its_end_of_turn(tiny_model, tmp_path):
    from transformers import AutoTokenizer

    path = ending_in_padding(tiny_model, tmp_path / "start")
    module = moved(path, SCORE_HEAD)
    model = exported(path, module, SCORE_HEAD, tmp_path / "export")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "export")
    assert tokenizer.pad_token_id == model.config.pad_token_id != tokenizer.eos_token_id
    texts = ["short<|im_end|>", "an answer of more tokens<|im_end|>"]
    padded = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        found = model(**padded).logits[:, 0].tolist()
        hidden = [model.model(torch.tensor([tokenizer(t)["input_ids"]]))[0][0, -1] for t in texts]
        assert found == pytest.approx([float(model.score(h)) for h in hidden], abs=1e-5)
        model.config.pad_token_id = tokenizer.eos_token_id  # negative control
        control = tokenizer(texts[1], return_tensors="pt")
        assert abs(model(**control).logits.item() - found[1]) > 1e-3


def test_a_model_of_the_other_kind_is_refused(tiny_model, tmp_path):
    steps = tmp_path / "steps"
    exported(tiny_model, moved(tiny_model, STEP_HEAD), STEP_HEAD, steps)
    with pytest.raises(UserError, match="an outcome reward model starts from a causal"):
        trained(steps, SCORE_HEAD).load(dtype=torch.float32)
    config = json.loads((steps / "config.json").read_text())
    assert config["architectures"] == ["LlamaForTokenClassification"]
