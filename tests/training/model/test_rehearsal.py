"""Architectures that packed training would compute wrongly are refused without their weights."""

import pytest
from tiny_families import FAMILIES, build_tiny_family

from rlpost.errors import UserError
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.training.model import rehearsal as module
from rlpost.training.model.rehearsal import rehearse

REFUSED = {
    "granite": r"changes its logits after the output head \(logits_scaling=8\.0\)",
    "cohere": r"changes its logits after the output head \(logit_scale=0\.0625\)",
    "stablelm": "StableLmForCausalLM computes attention with code of its own",
    "nemotron": "NemotronForCausalLM does not hand the borders between packed sequences",
    "falcon": "code of its own",
    "bloom": "code of its own",
    "gptj": "code of its own",
    "gpt_oss": r"attention sinks \(s_aux\)",
    "mamba": "code of its own",
    "qwen3_next": "code of its own",
}


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    root = tmp_path_factory.mktemp("families")

    def build(family, **changes):
        place = root / f"{family}{abs(hash(str(changes)))}"
        return ModelDirectory.read(build_tiny_family(place, family, **changes)).shell()

    return build


@pytest.mark.parametrize("family", REFUSED)
def test_the_reason_is_named(shell, family):
    with pytest.raises(UserError, match=rf"^model\.path: .*{REFUSED[family]}") as refused:
        rehearse(shell(family))
    message = str(refused.value)
    assert "rlpost_" not in message and "\n" not in message
    assert shell(family).__class__.__name__ in message


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - REFUSED.keys()))
def test_plain_decoders_pass(shell, family):
    assert rehearse(shell(family)).architecture == type(shell(family)).__name__


def test_settings_decide_and_not_the_class(shell):
    rehearse(shell("granite", logits_scaling=1.0))
    rehearse(shell("lfm2", layer_types=["full_attention"] * 2))
    with pytest.raises(UserError, match="only 1 of the 2 layers of Lfm2ForCausalLM"):
        rehearse(shell("lfm2", layer_types=["conv", "full_attention"]))


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3_text"])
def test_windows_that_a_layer_asks_for_limit_nothing(shell, family):
    rehearsal = rehearse(shell(family, sliding_window=64))
    assert rehearsal.reach is None
    rehearsal.require_reach(longest_prompt=10_000, max_tokens=10_000)


def test_a_window_that_no_layer_asks_for_allows_sequences_that_fit_into_it(shell, monkeypatch):
    """As one that transformers applies by its masks alone, which packed training has none of."""

    def attend(self, *args, sliding_window=None, **kwargs):
        return plain_attend(self, *args, **kwargs)

    plain_attend = module._Record.attend
    monkeypatch.setattr(module._Record, "attend", attend)
    rehearsal = rehearse(shell("gemma3_text", sliding_window=64))
    assert rehearsal.reach == 64
    rehearsal.require_reach(longest_prompt=44, max_tokens=20)
    with pytest.raises(UserError, match=r"chunks of 64 tokens.* 65: .* rollout\.max_tokens=20\."):
        rehearsal.require_reach(longest_prompt=45, max_tokens=20)


def test_a_cap_of_the_logits_that_training_does_not_apply_is_refused(shell, monkeypatch):
    monkeypatch.setattr(module, "logits_of", lambda model: model.get_output_embeddings())
    with pytest.raises(UserError, match=r"output head \(.*final_logit_softcapping=30\.0"):
        rehearse(shell("gemma2"))


def test_a_model_that_is_random_in_training_is_refused(shell, monkeypatch):
    """Drop-out that no name gives away; with the names, it is switched off."""
    noisy = {"attention_dropout": 0.5, "hidden_dropout": 0.5}
    rehearse(shell("gpt_neox", **noisy))
    monkeypatch.setattr(module, "switch_off_dropout", lambda model: None)
    with pytest.raises(UserError, match=r"random in training mode .*\(bernoulli_\)"):
        rehearse(shell("gpt_neox", **noisy))
