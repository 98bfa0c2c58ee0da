"""`rlpost submit` against a real cluster: run, stop, lose and resume a job of a tiny model."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml
from chains import write_two_stages
from cli_runs import REWARD, command, metrics, samples

from rlpost.network import free_port

ROOT = Path(__file__).resolve().parents[2]
ACTORS = ("ray::TrainedRank", "ray::EngineGenerator", "ray::VerifierService", "VLLM::")
DEADLINE_S = 480.0

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Cluster:
    """A private head node."""

    address: str
    env: dict[str, str]
    directory: Path

    def submit(self, *args: str, cwd: Path, **changes: str) -> subprocess.Popen:
        """Start `rlpost submit` with ``args``; ``changes`` are to its environment."""
        return subprocess.Popen(
            [sys.executable, "-m", "rlpost.cli.main", "submit", *args],
            cwd=cwd, env=self.env | changes, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def processes(self, *titles: str) -> list[psutil.Process]:
        """Living processes of this cluster whose command line begins with one of ``titles``."""
        return [
            process
            for process in psutil.process_iter()
            if self._owns(process) and _line(process).startswith(titles or "")
        ]

    def driver(self) -> psutil.Process:
        (driver,) = [p for p in self.processes() if "rlpost.cli.job" in _line(p)]
        return driver

    def _owns(self, process: psutil.Process) -> bool:
        """The head node and all that it starts work in its directory, jobs in their copies."""
        try:
            return process.cwd().startswith(str(self.directory))
        except psutil.Error:
            return False


def _line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def wait_until(condition: Callable[[], object], *, what: str, deadline_s: float = DEADLINE_S):
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, f"in {deadline_s:g} s not: {what}"
        time.sleep(0.1)


def finish(process: subprocess.Popen, timeout_s: float = DEADLINE_S) -> str:
    output, _ = process.communicate(timeout=timeout_s)
    return output


def said(process: subprocess.Popen) -> str:
    return " ".join(finish(process).split())


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    directory = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # sockets need a short path
    port, client_port, agent_port = free_port(), free_port(), free_port()
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    env |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ADDRESS": f"http://127.0.0.1:{port}",
    }
    head = subprocess.Popen(
        [
            str(Path(sys.executable).with_name("ray")), "start", "--head", "--block",
            "--num-cpus=2", "--port=0", f"--temp-dir={directory}", "--dashboard-host=127.0.0.1",
            f"--dashboard-port={port}", f"--ray-client-server-port={client_port}",
            f"--dashboard-agent-listen-port={agent_port}", f"--object-store-memory={200 << 20}",
            "--min-worker-port=0", "--max-worker-port=0",
        ],
        env={k: v for k, v in env.items() if k != "RAY_ADDRESS"}, cwd=directory,
        stdout=(directory / "head.log").open("w"), stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    cluster = Cluster(f"http://127.0.0.1:{port}", env, directory)
    try:
        wait_until(
            lambda: cluster.processes("ray::DashboardAgent") and _answers(cluster),
            what="the head node takes jobs",
            deadline_s=120,
        )
        yield cluster
    finally:
        head.terminate()
        head.wait(timeout=60)
        try:
            wait_until(lambda: not cluster.processes(), what="nothing is left", deadline_s=30)
        finally:
            for process in cluster.processes():
                process.kill()
            shutil.rmtree(directory, ignore_errors=True)


def _answers(cluster: Cluster) -> bool:
    listing = cluster.submit("--follow", "nobody", cwd=cluster.directory)
    return "no job is running" in said(listing)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("job")
    (place / "reward.py").write_text(REWARD)
    return place


def test_a_wrong_token_is_one_sentence(cluster, place):
    wrong = cluster.submit("rl", cwd=place, RAY_AUTH_TOKEN=secrets.token_hex(32))
    text = said(wrong)
    assert wrong.returncode == 2 and "refuses the token" in text and "Traceback" not in text, text
    none = cluster.submit(
        "rl", cwd=place, RAY_AUTH_TOKEN="", RAY_AUTH_MODE="disabled", HOME=str(place)
    )
    text = said(none)
    assert none.returncode == 2 and "asks for a token" in text and "Traceback" not in text, text


def test_a_wrong_address_is_one_sentence(cluster, place):
    nobody = cluster.submit("--address", f"http://127.0.0.1:{free_port()}", "rl", cwd=place)
    text = said(nobody)
    assert nobody.returncode == 2 and "nothing answers at" in text and "Traceback" not in text


def test_a_job_is_stopped_killed_and_resumed(cluster, place, tiny_untied_model):
    run = place / "runs" / "job"

    def stage(*overrides: str) -> list[str]:
        """The run's directory and its verifier are named relative to the working directory."""
        line = command(place, tiny_untied_model, "job", *overrides)
        relative = ["verifier.path=reward.py:even_share", "evaluation.every=0"]
        return [*line[line.index("rl") :], *relative]

    def step() -> int:
        return max((row["step"] for row in metrics(run)), default=-1)

    def saved() -> int:
        return int((run / "checkpoints" / "latest").read_text().removeprefix("step_"))

    def going(step_before: int) -> None:
        wait_until(lambda: step() > step_before, what=f"a step after {step_before}")

    # -- submitted, followed, stopped ---------------------------------------------------------
    endless = stage("trainer.steps=100000")
    first = cluster.submit("--no-wait", *endless, cwd=place)
    assert finish(first).count("rlpost submit --") == 2 and first.returncode == 0
    going(1)
    follower = cluster.submit("--follow", "job", cwd=place)
    again = cluster.submit(*endless, cwd=place)
    text = said(again)
    assert again.returncode == 2 and "a job named job is running as job" in text, text
    actors = cluster.processes("ray::TrainedRank", "ray::EngineGenerator", "ray::VerifierService")
    assert [actor.nice() for actor in actors] == [os.nice(0)] * 3  # Ray's own choice adds 15

    impatient = cluster.submit("--follow", "job", cwd=place)
    wait_until(lambda: "step" in impatient.stdout.readline(), what="a line of the log")
    impatient.send_signal(signal.SIGINT)
    text = said(impatient)
    assert impatient.returncode == 130 and "job job goes on" in text, text
    assert "rlpost submit --stop job" in text
    going(step())

    stop = cluster.submit("--stop", "job", cwd=place)
    text = finish(stop)
    assert stop.returncode == 0, text
    assert "saving after the work in progress" in text and "run the same command again" in text
    followed = finish(follower)
    assert follower.returncode == 130, followed
    assert followed.count("saving after the work in progress") == 1  # no line is shown twice
    assert saved() == step() > 1
    wait_until(lambda: not cluster.processes(*ACTORS), what="actors end with the job")
    late = cluster.submit("--stop", "job", cwd=place)
    assert "does not run" in said(late) and late.returncode == 2

    # -- the same command resumes; its driver is killed ---------------------------------------
    stopped_at = step()
    second = cluster.submit(*endless, cwd=place)
    going(stopped_at + 1)
    cluster.driver().kill()
    text = said(second)
    assert second.returncode == 1 and "job job-2 was killed by signal 9" in text, text
    assert "the same command again" in text and "Traceback" not in text
    wait_until(lambda: not cluster.processes(*ACTORS), what="actors end with their driver")

    # -- and resumes once more, to its end ----------------------------------------------------
    last = saved() + 3
    script = subprocess.run(
        [str(ROOT / "launch" / "ray_job.sh"), *stage(f"trainer.steps={last}")],
        cwd=place, env=cluster.env, capture_output=True, text=True, timeout=DEADLINE_S,
    )  # fmt: skip
    assert script.returncode == 0, script.stdout + script.stderr
    assert "job job-3 is submitted" in script.stdout
    assert [row["step"] for row in metrics(run)] == list(range(last + 1))
    uids = [uid for _, uid, sample, _ in samples(run) if sample == 0]
    assert len(uids) == len(set(uids)) == last * 3  # no prompt twice, none lost
    assert saved() == last
    for name in ("config.yaml", "report.html", "run.log", "export/model.safetensors"):
        assert (run / name).is_file(), name
    assert not (ROOT / "runs" / "job").exists()
    wait_until(lambda: not cluster.processes(*ACTORS), what="actors end with the job")


def test_a_pipeline_is_a_job_whose_stages_join_its_cluster(cluster, place, tiny_model):
    write_two_stages(place, tiny_model, steps=1)
    told = ["pipeline", "pipeline.path=chain.yaml", f"run.dir={place / 'runs'}"]
    job = cluster.submit(*told, cwd=place)
    text = finish(job)
    assert job.returncode == 0, text
    assert (place / "runs/chain/export/model.safetensors").is_file()
    for stage in ("one", "two"):
        config = yaml.safe_load((place / f"runs/chain/stages/{stage}/config.yaml").read_text())
        assert config["cluster"]["address"] == "auto"
    wait_until(lambda: not cluster.processes(*ACTORS), what="no actor is left", deadline_s=60)
