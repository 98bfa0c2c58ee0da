"""One model in two parts: an engine of two workers in an actor, from its boot to its successor."""

import logging
import re

import psutil
import pytest
from cli_runs import REWARD, command, metrics

from rlpost.api import LikelihoodObjective, SamplingConfig, TrainerConfig, open_parts
from rlpost.cli.main import main
from rlpost.cluster.trained import WeightSource
from rlpost.rollout.generator_config import GeneratorConfig
from rlpost.training.settings import DType

SAMPLING = SamplingConfig(max_tokens=16)
EXACT = 1e-3  # nats, between float32 kernels


def reward(prompt, text: str) -> float:
    return text.count("e") / max(1, len(text))


def workers() -> list[psutil.Process]:
    """The processes that hold a part of the model."""
    found = psutil.Process().children(recursive=True)
    return [p for p in found if re.search(r"VLLM::Worker", " ".join(p.cmdline()))]


@pytest.mark.timeout(600)
async def test_two_workers_sample_follow_every_push_and_are_replaced(
    tiny_model, caplog, monkeypatch
):
    caplog.set_level(logging.INFO)
    trainer = TrainerConfig(steps=3, lr=1e-2, dtype=DType.float32, threads=1)
    engine = GeneratorConfig(tensor_parallel_size=2, threads=1, max_model_len=256)
    async with open_parts(str(tiny_model), trainer=trainer, generator=engine) as parts:
        prompts = parts.prompts(["one", "two"])

        async def sample(seed: int):
            return await parts.sample(
                prompts, num_samples=4, sampling=SAMPLING, reward=reward, seed=seed
            )

        async def learn(groups, *, step: int) -> None:
            best = [max(group.episodes, key=lambda e: e.reward) for group in groups]
            await parts.policy.forward_backward(parts.pack(best), LikelihoodObjective())
            await parts.policy.optim_step(step)

        for step in (1, 2):
            groups = await sample(step)
            assert versions(groups) == {parts.bus.last_version}
            await learn(groups, step=step)
            assert (await parts.bus.publish()).probe_logprob_diff_max < EXACT

        served, before, stage, attempts = (
            parts.bus.last_version,
            await sample(9),
            WeightSource.stage,
            [],
        )

        async def stage_then_train(source, version, *, seats):
            """What the first attempt loads is no longer what the trainer holds at the probe."""
            attempts.append(version)
            if len(attempts) > 1:  # both parts have gone back
                after = await sample(9)
                assert versions(after) == {served} and tokens(after) == tokens(before)
            locator = await stage(source, version, seats=seats)
            if len(attempts) == 1:
                await learn(before, step=3)
            return locator

        monkeypatch.setattr(WeightSource, "stage", stage_then_train)
        report = await parts.bus.publish()
        assert len(attempts) == 2 and report.version == served + 2
        assert "push of version 4 was refused: " in caplog.text and "probe" in caplog.text
        assert report.probe_logprob_diff_max < EXACT
        assert "is restarted" not in caplog.text

        killed = workers()
        assert len(killed) == 2
        killed[1].kill()
        groups = await sample(10)  # answered by what takes its place
        assert len(groups) == len(prompts) and versions(groups) == {report.version}
        assert re.search("generator 0 is restarted: .*died", caplog.text)
        assert not {p.pid for p in killed} & {p.pid for p in workers()}


@pytest.mark.timeout(600)
def test_a_run_undoes_a_refused_push_and_replaces_a_killed_worker(
    tiny_model, tmp_path, monkeypatch
):
    (tmp_path / "reward.py").write_text(REWARD)
    probe, probed, killed = WeightSource.probe_logprobs, [], []

    async def disturbed(source, sequences):
        """The second push is refused once; in the third a part of the model dies."""
        truth = await probe(source, sequences)
        probed.append(truth)
        if len(probed) == 2:
            return [[each + 1 for each in row] for row in truth]
        if len(probed) == 4:
            killed.extend(workers())
            killed[1].kill()
        return truth

    monkeypatch.setattr(WeightSource, "probe_logprobs", disturbed)
    options = ["trainer.steps=3", "evaluation.every=0", "generator.tensor_parallel_size=2"]
    options += [f"run.dir={tmp_path / 'runs'}", "rl.max_staleness=1", "trainer.lr=1e-2"]
    assert main(command(tmp_path, tiny_model, "parts", *options)[3:]) == 0
    rows = metrics(tmp_path / "runs" / "parts")
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert all(row["actor/grad_norm"] > 0 for row in rows[1:])
    pushes = [row for row in rows if "weights/version" in row]
    assert [row["weights/version"] for row in pushes] == [1, 3, 5, 6]
    assert max(row["weights/probe_logprob_diff_max"] for row in pushes) < EXACT
    log = (tmp_path / "runs" / "parts" / "run.log").read_text()
    assert re.search("push of version 2 was refused: generator 0: the probe of generator 0 ", log)
    assert len(re.findall("generator 0 is restarted: ", log)) == 1
    assert len(killed) == 2 and not any(each.is_running() for each in killed)


def versions(groups) -> set[int]:
    return {version for g in groups for e in g.episodes for version in e.versions}


def tokens(groups) -> list:
    return [e.trajectories[0].response_ids for g in groups for e in g.episodes]
