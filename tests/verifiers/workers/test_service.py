import asyncio
import pickle
import textwrap
import threading
import time

import psutil
import pytest

from rlpost.errors import InfrastructureError, UserError
from rlpost.types import Verdict
from rlpost.verifiers.base import ABSTAINED, TIMEOUT, Sample
from rlpost.verifiers.kinds.exact import ExactConfig
from rlpost.verifiers.kinds.function import FunctionConfig
from rlpost.verifiers.workers import service as service_module
from rlpost.verifiers.workers.service import MAX_ATTEMPTS, VerifierService

# What the completion asks for, and otherwise its number as reward.
REWARDS = """
    import os, pathlib, sys, time
    def f(completions, **columns):
        text = completions[0]
        if text == "hang":
            time.sleep(600)
        if text == "wait":
            while not os.path.exists(columns["marker"][0]):
                time.sleep(0.01)
            return [0.5]
        if text == "die":
            os._exit(3)
        if text == "die once":
            marker = pathlib.Path(columns["marker"][0])
            if not marker.exists():
                marker.touch()
                os._exit(3)
            return [0.5]
        if text == "count and die":
            with open(columns["marker"][0], "a") as file:
                file.write("x")
            os._exit(3)
        if text == "raise":
            raise ValueError("no")
        if text == "exit":
            sys.exit(1)
        if text == "abstain":
            return [None]
        if text.startswith("sleep"):
            time.sleep(float(text.split()[1]))
            return [0.5]
        print("noise")
        return [float(text)]
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    file = tmp_path_factory.mktemp("service") / "rewards.py"
    file.write_text(textwrap.dedent(REWARDS))
    return f"{file}:f"


@pytest.fixture
def service(path):
    service = VerifierService({"f": FunctionConfig(path=path, timeout_s=2.0)}, num_workers=2)
    yield service
    service.close()
    assert service.alive() == 0


def _sample(text, **columns):
    return Sample(prompt="q", text=text, columns=columns)


async def _judge(service, *texts):
    return [verdict for (verdict,) in await service.judge([_sample(text) for text in texts])]


async def test_order_is_kept_whatever_finishes_first(service):
    texts = [f"sleep {0.02 * (i % 3)}" if i % 5 == 0 else str(i) for i in range(200)]
    expected = [0.5 if i % 5 == 0 else float(i) for i in range(200)]
    assert [v.reward for v in await _judge(service, *texts)] == expected


async def test_concurrent_batches_do_not_mix(service):
    batches = [[str(100 * b + i) for i in range(30)] for b in range(5)]
    results = await asyncio.gather(*(_judge(service, *batch) for batch in batches))
    assert [[str(int(v.reward)) for v in result] for result in results] == batches


async def test_a_failure_stays_with_its_sample_and_is_never_a_reward(service):
    texts = ["1", "hang", "2", "raise", "die", "3", "exit", "abstain", "4"]
    verdicts = dict(zip(texts, await _judge(service, *texts), strict=True))
    assert [verdicts[str(i)].reward for i in range(1, 5)] == [1.0, 2.0, 3.0, 4.0]
    errors = {text: verdicts[text].error for text in texts if not text.isdigit()}
    assert errors["hang"] == TIMEOUT
    assert errors["raise"].startswith("ValueError: no (rewards.py:")
    assert errors["die"].startswith("worker died (exit code 3)")
    assert errors["exit"].startswith("SystemExit: 1")
    assert errors["abstain"] == ABSTAINED
    assert sum(v.latency_s for v in verdicts.values()) >= 2.0
    assert service.num_lost() == 1 + MAX_ATTEMPTS


async def test_one_waiting_sample_does_not_hold_up_the_others(path, tmp_path):
    service = VerifierService({"f": FunctionConfig(path=path, timeout_s=120.0)}, num_workers=2)
    go = tmp_path / "go"
    try:
        waiting = asyncio.create_task(service.judge([_sample("wait", marker=str(go))]))
        assert len(await _judge(service, *map(str, range(50)))) == 50
        assert not waiting.done()
        go.touch()
        assert (await waiting)[0][0].reward == 0.5
    finally:
        service.close()


@pytest.mark.parametrize(("spares_per_worker", "others_wait"), [(3, False), (0, True)])
async def test_samples_that_take_long_hold_up_no_others(
    path, tmp_path, monkeypatch, spares_per_worker, others_wait
):
    """Overdue at once; they end when the file is there, long before their deadline."""
    monkeypatch.setattr(service_module, "OVERDUE_SHARE", 1e-3)
    cfg = FunctionConfig(path=path, timeout_s=120.0)
    service = VerifierService({"f": cfg}, 2, spares_per_worker=spares_per_worker)
    go = tmp_path / "go"
    try:
        await _judge(service, "1", "1")
        long = asyncio.create_task(service.judge([_sample("wait", marker=str(go))] * 2))
        await asyncio.sleep(0.1)
        quick = asyncio.create_task(_judge(service, *map(str, range(8))))
        if others_wait:
            await asyncio.wait([quick], timeout=0.5)
            assert not quick.done()
        else:
            await quick
        assert not long.done()
        go.touch()
        assert [v.reward for v in await quick] == list(range(8))
        assert [v.reward for (v,) in await long] == [0.5, 0.5]
        assert [v.reward for v in await _judge(service, "7")] == [7.0]
        assert service.alive() <= 2
    finally:
        service.close()


async def test_as_many_hang_as_there_are_spares(path):
    cfg = FunctionConfig(path=path, timeout_s=4.0)
    service = VerifierService({"f": cfg}, 1, spares_per_worker=3)
    try:
        verdicts = _judge(service, "hang", "hang", "hang", "1", "2")
        verdicts = [v.reward if v.error is None else v.error for v in await verdicts]
        assert verdicts == [TIMEOUT, TIMEOUT, TIMEOUT, 1.0, 2.0]
        assert service.num_lost() == 3
    finally:
        service.close()


async def test_a_death_is_retried_on_a_fresh_worker(service, tmp_path):
    sample = _sample("die once", marker=str(tmp_path / "marker"))
    assert (await service.judge([sample]))[0][0].reward == 0.5


async def test_a_poisonous_sample_is_tried_a_bounded_number_of_times(service, tmp_path):
    marker = tmp_path / "marker"
    [(verdict,)] = await service.judge([_sample("count and die", marker=str(marker))])
    assert verdict.reward is None
    assert marker.read_text() == "x" * MAX_ATTEMPTS


async def test_worker_killed_from_outside_in_mid_call(service):
    await _judge(service, "1", "1")
    task = asyncio.create_task(_judge(service, "sleep 0.6"))
    await asyncio.sleep(0.3)
    for worker in psutil.Process().children():
        if (
            worker.status() != psutil.STATUS_ZOMBIE
            and "rlpost.verifiers.workers.worker" in worker.cmdline()
        ):
            worker.kill()
    assert [v.reward for v in await task] == [0.5]
    for _ in range(20):  # one worker may be quick enough to answer all, the other starts when used
        assert [v.reward for v in await _judge(service, "1", "2", "3")] == [1.0, 2.0, 3.0]
        if service.alive() == 2:
            break
    assert service.alive() == 2


async def test_every_verifier_gives_its_verdict_in_config_order(path):
    configs = {"b": FunctionConfig(path=path), "a": ExactConfig()}
    service = VerifierService(configs, num_workers=1)
    try:
        sample = Sample(prompt="q", text="raise", columns={"answer": "raise"})
        [verdicts] = await service.judge([sample])
        assert [(v.verifier, v.reward) for v in verdicts] == [("b", None), ("a", 1.0)]
        assert isinstance(verdicts[0], Verdict)
    finally:
        service.close()


async def test_verifier_that_cannot_be_built_is_an_error_of_its_own_only(tmp_path):
    configs = {"gone": FunctionConfig(path=f"{tmp_path}/gone.py:f"), "exact": ExactConfig()}
    service = VerifierService(configs, num_workers=1)
    try:
        sample = Sample(prompt="q", text="6", columns={"answer": "6"})
        [(gone, exact)] = await service.judge([sample])
        assert gone.reward is None and "there is no file" in gone.error
        assert exact.reward == 1.0
    finally:
        service.close()


async def test_row_that_is_no_json_is_an_error(service):
    [(bad,), (good,)] = await service.judge([_sample("1", lock=threading.Lock()), _sample("2")])
    assert bad.reward is None and bad.error.startswith("the row cannot be sent to a worker")
    assert good.reward == 2.0


def test_usable_from_several_event_loops(service):
    for text in ("1", "2"):
        [verdict] = asyncio.run(_judge(service, text))
        assert verdict.reward == float(text)


async def test_nothing_to_judge(service):
    assert await service.judge([]) == []


async def test_close_ends_calls_in_progress_and_refuses_new_ones(path):
    service = VerifierService({"f": FunctionConfig(path=path, timeout_s=60)}, num_workers=2)
    await _judge(service, "1", "2")
    task = asyncio.create_task(_judge(service, "hang", "hang", "hang", "1"))
    await asyncio.sleep(0.3)
    start = time.monotonic()
    await asyncio.to_thread(service.close)
    assert time.monotonic() - start < 30  # half of what those that hang may take
    assert all(verdict.reward is None and verdict.error for verdict in await task)
    assert service.alive() == 0
    service.close()
    with pytest.raises(InfrastructureError, match="closed"):
        await _judge(service, "1")


async def test_a_service_that_closes_between_two_looks_gives_no_verdict(path):
    """``judge`` found it open, and its samples are given to threads only later."""
    service = VerifierService({"f": FunctionConfig(path=path)}, num_workers=1)
    task = asyncio.create_task(_judge(service, "1"))
    await asyncio.sleep(0)
    service.close()
    [verdict] = await task
    assert verdict.reward is None and "closed" in verdict.error


def test_arguments_are_picklable(path):
    configs = {"f": FunctionConfig(path=path), "exact": ExactConfig()}
    assert pickle.loads(pickle.dumps(configs)) == configs


def test_bad_arguments(path):
    with pytest.raises(UserError, match="num_workers must be >= 1, got 0"):
        VerifierService({"f": FunctionConfig(path=path)}, 0)
    with pytest.raises(UserError, match="at least one verifier"):
        VerifierService({}, 1)
