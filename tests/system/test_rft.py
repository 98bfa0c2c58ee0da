"""`rlpost rft`: sample, keep, imitate; the kept responses are a dataset with provenance."""

import json

from cli_runs import REWARD, finish, metrics, samples, start

from rlpost.data.sources.load import load_rows


def test_what_is_kept_is_written_and_imitated(tmp_path, tiny_untied_model):
    (tmp_path / "reward.py").write_text(REWARD)
    rule = ["selection.min_reward=0.5", "selection.best=2", "selection.dedupe=true"]
    updates = ["algorithm.epochs=2", "algorithm.mini_batches=2", "trainer.steps=2"]
    process = start(tmp_path, tiny_untied_model, "kept", *rule, *updates, stage="rft")
    output = finish(process)
    assert process.returncode == 0, output
    run = tmp_path / "runs" / "kept"
    rows = metrics(run)
    assert [row["step"] for row in rows] == [0, 1, 2]
    sampled = {(step, uid, sample): response for step, uid, sample, response in samples(run)}
    for step, row in enumerate(rows[1:], start=1):
        path = run / "dataset" / f"step_{step:06d}.jsonl"
        kept = [json.loads(line) for line in path.read_text().splitlines()]
        assert 0 < len(kept) == row["selection/kept"] <= 3 * 2  # 3 prompts, the best 2 of each
        for record in kept:
            origin = record["provenance"]
            assert origin["reward"] >= 0.5 and origin["version"] == step
            key = (f"step_{step:06d}", origin["uid"], origin["sample"])
            assert sampled[key] == record["completion"]
        assert len(list(load_rows(str(path)))) == len(kept)  # a dataset like any other
        assert row["actor/grad_norm"] > 0
