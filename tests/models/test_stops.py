"""Where generation stops, by a model's own files."""

import json

import pytest
from transformers import LlamaConfig

from rlpost.cli.main import main
from rlpost.errors import UserError
from rlpost.models.stops import named_stops
from rlpost.models.tiny import build_tiny_llama


@pytest.mark.parametrize(
    ("written", "stops"), [(7, (7,)), ([7, 2], (7, 2)), (None, (5,)), ("absent", (5,))]
)
def test_the_generation_settings_come_before_the_config(written, stops, tmp_path):
    if written != "absent":
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": written}))
    assert named_stops(tmp_path, LlamaConfig(eos_token_id=5)) == stops


@pytest.mark.parametrize("written", ["x", [2, "</s>"], 1.5, True])
def test_what_is_no_token_id_is_refused(written, tmp_path):
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": written}))
    with pytest.raises(UserError, match=r"eos_token_id must be a token id or a list .* correct it"):
        named_stops(tmp_path, LlamaConfig())


@pytest.mark.parametrize("text", ["{", '{"eos_token_id": "x"}'])
def test_a_base_that_the_engine_could_not_read_is_not_served(text, tmp_path, monkeypatch, capsys):
    """The engine reads the file itself, when it has loaded everything else."""
    model = build_tiny_llama(tmp_path / "model")
    (model / "generation_config.json").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "serve", f"model.path={model}"]) == 2
    assert "generation_config.json" in capsys.readouterr().err
