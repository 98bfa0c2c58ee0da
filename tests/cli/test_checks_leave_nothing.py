"""A check that fails leaves neither a directory nor a file behind."""

import pytest

from rlpost.cli.main import main


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("tracking.wandb=online", "tracking.wandb=online needs a key"),
        ("checkpoint.keep=0", "checkpoint.keep must be"),
        ("trainer.num_ranks=0", "trainer.num_ranks must be"),
        ("data.train=nowhere.jsonl", "nowhere.jsonl"),
    ],
)
def test_a_failed_check_leaves_nothing(override, said, tiny_model, tmp_path, monkeypatch, capsys):
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "NETRC", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    code = main(["rl", f"model.path={tiny_model}", "verifier=exact", override])
    assert said in " ".join(capsys.readouterr().err.split())
    assert code == 2
    assert list(tmp_path.iterdir()) == []
