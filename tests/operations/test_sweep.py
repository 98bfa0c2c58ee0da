"""A sweep as a user runs it: two members at a time, one of them killed, the command again."""

import importlib.util
import re
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import yaml
from cli_runs import REWARD, command, finish, metrics

from rlpost.tracking.curves.table import sections_of
from rlpost.tracking.files.sweep_record import MemberState, read_members

pytestmark = pytest.mark.timeout(900)

NAME = "swept"
STEPS = 12  # both members shall still run when the later one has begun
VARYING = ("seed=1,2", "trainer.lr=1e-3,2e-3")
MEMBERS = [f"{NAME}-seed={seed},trainer.lr={lr}" for seed in (1, 2) for lr in ("0.001", "0.002")]


def _load(name: str):
    """Return a helper of the tracking tests."""
    path = Path(__file__).parents[1] / "tracking" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("sweep")
    (place / "reward.py").write_text(REWARD)
    return place


def start_sweep(place, model) -> subprocess.Popen:
    swept = command(place, model, NAME, "-m", *VARYING, "hydra.launcher.n_jobs=2")
    swept += [f"trainer.steps={STEPS}", "evaluation.every=6"]
    return subprocess.Popen(
        swept, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def drivers(sweep: subprocess.Popen) -> dict[str, psutil.Process]:
    """Name -> process of the members that run now."""
    found = {}
    for process in psutil.Process(sweep.pid).children():
        name = re.search(r"run\.name='([^']+)'", " ".join(process.cmdline()))
        if name:
            found[name[1]] = process
    return found


def wait_for(condition, sweep: subprocess.Popen, what: str) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and sweep.poll() is None:
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(f"{what} never came: {sweep.communicate()[0]}")


def held(process: psutil.Process) -> dict[str, set]:
    """What a member and its descendants have open."""
    ports, peers, written = set(), set(), set()
    for each in [process, *process.children(recursive=True)]:
        try:
            for link in each.net_connections("inet"):
                if link.status == psutil.CONN_LISTEN:
                    ports.add(link.laddr.port)
                elif link.raddr:
                    peers.add(link.raddr.port)
            # W&B's processes name their own debug logs by the second in which they started.
            written |= {
                file.path
                for file in each.open_files()
                if file.mode != "r" and "/wandb/logs/" not in file.path
            }
        except psutil.NoSuchProcess:
            continue
    return {"ports": ports, "peers": peers, "written": written}


@pytest.fixture(scope="module")
def killed_sweep(place, tiny_untied_model) -> dict:
    """A sweep of which one member was killed, and what its first two members had open."""
    sweep = start_sweep(place, tiny_untied_model)
    runs = place / "runs"

    def both_are_up() -> bool:
        """One trains and the other has its actors: on a busy machine one is up much earlier."""
        both = [runs / name for name in drivers(sweep)]
        logs = [run / "run.log" for run in both]
        seated = all(log.exists() and "slots: " in log.read_text() for log in logs)
        return len(both) == 2 and seated and any(map(metrics, both))

    wait_for(both_are_up, sweep, "two members at once")
    running = drivers(sweep)
    first, second = (held(process) for process in running.values())
    victim = min(running, key=lambda name: len(metrics(runs / name)))
    latest = runs / victim / "checkpoints" / "latest"  # written behind the run
    wait_for(latest.exists, sweep, f"a checkpoint of {victim}")
    running[victim].kill()
    output = finish(sweep, timeout_s=600)
    return {"code": sweep.returncode, "output": output, "victim": victim, "held": (first, second)}


def test_members_share_nothing(killed_sweep):
    first, second = killed_sweep["held"]
    assert first["ports"] and second["ports"]
    assert not first["ports"] & second["ports"]
    assert not first["peers"] & second["ports"] and not second["peers"] & first["ports"]
    assert any("/runs/" in path for path in first["written"])
    assert not first["written"] & second["written"]


def test_a_killed_member_costs_no_other(place, killed_sweep):
    assert killed_sweep["code"] == 1, killed_sweep["output"]
    victim, runs = killed_sweep["victim"], place / "runs"
    (directory,) = runs.glob("sweep-*")
    records = {each.name: each for each in read_members(directory)}
    assert sorted(records) == sorted(MEMBERS)
    assert records[victim].state is MemberState.failed
    assert records[victim].message == "killed by SIGKILL"
    for name in set(MEMBERS) - {victim}:
        assert records[name].state is MemberState.done
        assert [row["step"] for row in metrics(runs / name)] == list(range(STEPS + 1))
    configs = [yaml.safe_load((runs / name / "config.yaml").read_text()) for name in MEMBERS]
    assert {each["tracking"]["group"] for each in configs} == {directory.name}
    identities = {(runs / name / "wandb" / "run_id").read_text() for name in MEMBERS}
    sessions = {re.search(r"ray session: (\S+)", (runs / name / "run.log").read_text())[1]
                for name in MEMBERS}  # fmt: skip
    assert len(identities) == len(sessions) == len(MEMBERS)


def test_the_same_command_resumes_the_killed_one_alone(place, tiny_untied_model, killed_sweep):
    victim, runs = killed_sweep["victim"], place / "runs"
    before = {name: (runs / name / "metrics.jsonl").read_bytes() for name in MEMBERS}
    saved = int((runs / victim / "checkpoints" / "latest").read_text().strip()[5:])
    assert 0 < saved < STEPS  # it goes on from its own checkpoint
    kept = [row for row in metrics(runs / victim) if row["step"] <= saved]

    sweep = start_sweep(place, tiny_untied_model)
    output = finish(sweep, timeout_s=600)
    assert sweep.returncode == 0, output
    (directory,) = runs.glob("sweep-*")
    for name in MEMBERS:
        text = (directory / "logs" / f"{name}.log").read_text()
        same = (runs / name / "metrics.jsonl").read_bytes() == before[name]
        assert same is (name != victim), name
        assert (f"is complete at step {STEPS}" in text) is (name != victim), text
    rows = metrics(runs / victim)
    assert [row["step"] for row in rows] == list(range(STEPS + 1))
    # The row of the checkpoint's step is written around the save and may gain metrics.
    assert rows[:saved] == kept[:saved]
    assert {each.state for each in read_members(directory)} == {MemberState.done}


def test_the_page_draws_every_member(place, killed_sweep):
    (page,) = (place / "runs").glob("sweep-*/sweep.html")
    dom = _load("chromium").Browser().dump(page.as_uri())
    assert 'data-ready="yes"' in dom and "data-page-error" not in dom
    assert re.search(r'<pre id="page-errors"[^>]* hidden', dom)
    rows = re.findall(r"<tr>", re.search(r"<tbody>(.*?)</tbody>", dom, re.DOTALL)[1])
    assert len(rows) == len(MEMBERS)
    for name in MEMBERS:
        assert name in dom
    reward = re.search(r'id="chart-c1"[^>]*>', dom)[0]
    assert reward.count(f" at {STEPS}") == len(MEMBERS), reward


def test_trackers_hold_every_metric_and_panels_name_real_ones(place, killed_sweep):
    wandb_file = _load("wandb_file")
    name = max(set(MEMBERS) - {killed_sweep["victim"]})
    run = place / "runs" / name
    recorded = metrics(run)
    (path,) = run.glob("wandb/offline-run-*/*.wandb")
    records = wandb_file.finished_records(path)
    assert wandb_file.missing(recorded, wandb_file.by_step(records)) == []
    assert any(each.WhichOneof("record_type") == "artifact" for each in records)
    real = {metric for row in recorded for metric in row}
    # A plain GRPO run has neither a critic, a reference nor an adapter, nothing of it is too old
    # and no model leaves memory.
    absent = ("critic/grad_norm", "critic/vf_loss", "critic/rewards", "actor/kl_loss",
              "timing_s/ref", "timing_s/old_log_prob", "timing_s/values", "timing_s/update_critic",
              "timing_s/offload", "weights/merge_error", "adapter/", "cost/gpu_s",
              "cost/lost/gpu_s")  # fmt: skip
    for panel in (panel for section in sections_of(["rl"]) for panel in section.panels):
        unknown = {each for each in panel.curves if not each.startswith(absent)} - real
        assert not unknown, panel.title
