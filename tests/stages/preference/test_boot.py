"""What decides whether log-probs of a reference that lie in a run's directory are used again."""

import shutil

import pytest
from supervised_runs import write_rows

from rlpost.config.compose import compose_stage
from rlpost.models.tiny import build_tiny_llama
from rlpost.stages.preference.boot import reference_identity
from rlpost.stages.preference.prepare import prepare
from rlpost.stages.run_directory import RunDirectory

PAIRS = [{"prompt": f"{n}?", "chosen": "a" * n, "rejected": "b"} for n in (1, 2)]


def build(place, *, seed):
    shutil.rmtree(place, ignore_errors=True)
    build_tiny_llama(place, vocabulary=384, seed=seed)


@pytest.fixture
def identity(tmp_path, monkeypatch):
    """Return the identity of a run's reference; ``seed`` is of the weights in its model.path."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "pairs.jsonl", PAIRS)

    def found(*overrides, seed=0):
        build(tmp_path / "model", seed=seed)
        words = ["model.path=model", "data.train=pairs.jsonl", "data.workers=0", *overrides]
        cfg, _ = compose_stage([*words, "trainer.dtype=float32"], stage="preference")
        return reference_identity(prepare(cfg, directory=RunDirectory(root=tmp_path / "run")))

    return found


def test_other_weights_in_the_same_place_are_another_reference(identity):
    first = identity()
    assert identity() == first
    other = identity(seed=1)
    assert other["weights"] != first["weights"] and other["rows"] == first["rows"]


def test_a_frozen_model_is_known_by_its_weights_too(identity, tmp_path):
    build(tmp_path / "frozen", seed=2)
    first = identity("reference.path=frozen")
    assert identity("reference.path=frozen", seed=1) == first  # the policy's do not matter
    build(tmp_path / "frozen", seed=3)
    assert identity("reference.path=frozen")["weights"] != first["weights"]


def test_mismatched_completions_depend_on_where_they_are_cut(identity):
    cut = "trainer.max_tokens_per_micro_batch=64"
    assert identity("loss=kto", cut) != identity("loss=kto")
    assert identity(cut) == identity()  # no loss but kto's reads any
