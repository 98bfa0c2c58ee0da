"""Architectures that packed training would compute wrongly are refused without their weights."""

import pytest
from tiny_families import FAMILIES, build_tiny_family

from rlpost.errors import UserError
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.training.model import rehearsal as module
from rlpost.training.model.rehearsal import rehearse

REFUSED = {
    "gemma2": r"soft-capped scores \(softcap=50\.0\)",
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


@pytest.mark.parametrize(
    ("family", "changes", "window"),
    [
        ("mistral", {"sliding_window": 100}, 100),
        ("mistral", {"sliding_window": None}, None),
        ("gemma3_text", {"sliding_window": 64}, 64),
        ("qwen3", {"sliding_window": 128, "use_sliding_window": True, "max_window_layers": 1}, 128),
        ("qwen3", {"sliding_window": 128, "use_sliding_window": False}, None),
    ],
)
def test_a_window_allows_sequences_that_fit_into_it(shell, family, changes, window):
    rehearsal = rehearse(shell(family, **changes))
    assert rehearsal.window == window
    if window is None:
        rehearsal.require_window(longest_prompt=10_000, max_tokens=10_000)
        return
    rehearsal.require_window(longest_prompt=window - 20, max_tokens=20)
    with pytest.raises(
        UserError, match=rf"window of {window} tokens.* {window + 1}: .* rollout\.max_tokens=20\."
    ):
        rehearsal.require_window(longest_prompt=window - 19, max_tokens=20)


def test_a_model_that_is_random_in_training_is_refused(shell, monkeypatch):
    """Drop-out that no name gives away; with the names, it is switched off."""
    noisy = {"attention_dropout": 0.5, "hidden_dropout": 0.5}
    rehearse(shell("gpt_neox", **noisy))
    monkeypatch.setattr(module, "switch_off_dropout", lambda model: None)
    with pytest.raises(UserError, match=r"random in training mode .*\(bernoulli_\)"):
        rehearse(shell("gpt_neox", **noisy))
