"""Two ranks that divide a frozen model answer what the whole model answers."""

import json
from pathlib import Path

import pytest
from rank_processes import run_ranks
from reward_models import build_step_model
from tiny_families import build_tiny_family

from rlpost.models.tiny import build_tiny_llama

SCRIPT = Path(__file__).with_name("frozen_rank.py")


def asked(tmp_path: Path, cases: list[dict], *, control: str) -> list[list[dict]]:
    """What each rank found of each case."""
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    first = [str(tmp_path / "cases.json")]
    run_ranks(SCRIPT, tmp_path, ranks=2, first=first, control=control, num_ports=len(cases))
    return [json.loads((tmp_path / f"result.json.{rank}").read_text()) for rank in range(2)]


@pytest.mark.timeout(600)
def test_parts_answer_like_the_whole_bit_for_bit(tiny_model, tiny_reward, tmp_path):
    paths = [
        build_tiny_llama(tmp_path / "deep", layers=8),  # a tied head
        build_tiny_family(tmp_path / "bias", "qwen2"),
        build_tiny_family(tmp_path / "experts", "qwen3_moe"),  # fused otherwise than in the files
    ]
    cases = [
        {"path": str(path), "dtype": dtype}
        for path, dtype in zip(paths, ("float32", "bfloat16", "float32"), strict=True)
    ]
    cases.append({**cases[1], "loaded_whole": True})
    steps = build_step_model(tmp_path / "steps", tiny_model)
    cases += [
        {"path": str(path), "dtype": "float32", "judges": True} for path in (tiny_reward, steps)
    ]
    for rank, found in enumerate(asked(tmp_path, cases, control="none")):
        for case, said in zip(cases, found, strict=True):
            # Of steps the head reads the ends alone; transformers' own reads every token.
            of_steps = case["path"] == str(steps)
            assert said["other"] == [] or of_steps, (case, rank)
            assert said["difference"] < 1e-5, (case, rank)
            assert said["held"] == 0  # asleep, nothing is whole
        deep = found[0]
        assert 0 < deep["most"] < 0.5 * deep["total"]  # two of eight layers, and the table
        for said in found:
            assert said["slept"] < 0.6 * said["bytes"]  # a rank held its half


def test_both_parts_are_asked(tiny_model, tmp_path):
    """Negative control: a value of the second rank's part decides both ranks' answers."""
    cases = [{"path": str(tiny_model), "dtype": "float32"}]
    for (said,) in asked(tmp_path, cases, control="part"):
        assert said["other"] == ["scores", "again", "top", "awake"]
