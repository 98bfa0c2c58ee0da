"""launch/slurm on a real Slurm of two nodes: what a job does when all goes well and when not."""

import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from chains import write_two_stages
from cli_runs import REWARD, command, metrics, samples
from slurm_cluster import NODES, SlurmCluster, missing_programs, slurm_cluster

ROOT = Path(__file__).parents[2]
TRAIN = ROOT / "launch/slurm/train.sbatch"
SWEEP = ROOT / "launch/slurm/sweep.sbatch"
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
DEADLINE_S = 400
NEVER = 100_000  # steps

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        bool(missing_programs()),
        reason=f"Slurm is missing here: {', '.join(missing_programs())} (Debian: apt-get install "
        "slurm-wlm munge)",
    ),
    pytest.mark.skipif(os.getuid() != 0, reason="the daemons of Slurm run as root"),
]


@dataclass(frozen=True, kw_only=True)
class Site:
    """A Slurm, a working directory, and where Ray's temporary files go."""

    slurm: SlurmCluster
    place: Path
    temporary: Path

    def submit(self, script: Path, *options: str, told: list[str], **settings: str) -> str:
        """Submit a job; returns its number."""
        environment = {
            "RLPOST_PYTHON": sys.executable,
            "RLPOST_TMP": str(self.temporary),
            "RLPOST_RAY": f"--object-store-memory={256 << 20}",
            **settings,
        }
        return self.slurm.run(
            "sbatch", "--parsable", f"--chdir={self.place}", *options, str(script), *told,
            **environment,
        )  # fmt: skip

    def until(self, job: str, condition, *, ended: bool = False) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            state = self.slurm.job(job)["JobState"]
            assert ended or state not in ENDED, self.said(job)
            assert time.monotonic() < deadline, f"{state}: {self.said(job)}"
            time.sleep(0.2)

    def end(self, job: str) -> str:
        """Wait for the job's end; returns its exit code as Slurm knows it, such as ``2:0``."""
        self.until(job, lambda: self.slurm.job(job)["JobState"] in ENDED, ended=True)
        self.until(job, lambda: not self.slurm.processes(), ended=True)
        return self.slurm.job(job)["ExitCode"]

    def said(self, job: str) -> str:
        path = Path(self.slurm.job(job)["StdOut"])
        logs = self.place / "slurm-logs" / job / "ray.log"
        texts = [p.read_text(errors="replace") for p in (path, logs) if p.exists()]
        return "\n".join(texts)

    def assert_nothing_is_left(self, job: str) -> None:
        assert self.slurm.processes() == []
        assert list(self.temporary.iterdir()) == []
        assert not (self.place / "slurm-logs" / job / "token").exists()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    root = tmp_path_factory.mktemp("slurm")
    (root / "reward.py").write_text(REWARD)
    temporary = Path(tempfile.mkdtemp(prefix="rl"))  # short: it holds sockets
    with slurm_cluster(root / "slurm") as slurm:
        yield Site(slurm=slurm, place=root, temporary=temporary)
    shutil.rmtree(temporary)


def told(site: Site, model: Path, name: str, *overrides: str) -> list[str]:
    """What a person writes after the script: stage and overrides."""
    return command(site.place, model, name, *overrides)[3:]


def steps(run: Path) -> int:
    return max((row["step"] for row in metrics(run)), default=-1)


def test_a_run_of_two_nodes_survives_its_time_limit_and_a_requeue(site, tiny_untied_model):
    """Told of the limit it saves and requeues itself; requeued by Slurm it saves as well.

    Only interruptions save here: had one of them lost the run, its steps would come twice.
    """
    last = 12
    run = site.place / "runs" / "long"
    apart = ["cluster=two_nodes", "checkpoint.every=1000", f"trainer.steps={last}"]
    words = told(site, tiny_untied_model, "long", *apart)
    job = site.submit(TRAIN, "-N2", told=words)
    site.until(job, lambda: steps(run) >= 2)
    token = site.place / "slurm-logs" / job / "token"
    assert token.stat().st_mode & 0o077 == 0
    site.slurm.run("scancel", "--batch", "--signal=USR1", job)
    site.until(job, lambda: site.slurm.job(job)["Restarts"] == "1")
    before = steps(run)
    site.until(job, lambda: steps(run) > before)
    site.slurm.run("scontrol", "requeue", job)
    assert site.end(job) == "0:0", site.said(job)
    said = site.said(job)
    assert site.slurm.job(job)["Restarts"] == "2"
    assert "SIGUSR1: the driver is asked to save" in said
    assert said.count("interrupted, saved as") == 2, said
    assert said.count(f"Ray runs at 127.0.0.1:{_port(job)} on {', '.join(NODES)}") == 3
    assert _config(run)["cluster"]["address"] == f"127.0.0.1:{_port(job)}"
    log = (run / "run.log").read_text()
    assert log.count("slots: n1: trainer rank 0\n") == log.count("slots: n2: generator 0\n") == 3
    assert "is gone" not in log  # Slurm's SIGTERM to every process reached the driver alone
    assert [row["step"] for row in metrics(run)] == list(range(last + 1))
    uids = [uid for _, uid, sample, _ in samples(run) if sample == 0]
    assert len(uids) == len(set(uids)) == last * 3
    for node in NODES:
        assert (site.place / "slurm-logs" / job / node / "raylet.out").is_file()
    site.assert_nothing_is_left(job)


def test_a_pipeline_goes_on_where_a_requeue_cut_it(site, tiny_model):
    last = 40
    write_two_stages(site.place, tiny_model, steps=last)
    job = site.submit(TRAIN, "-N1", told=["pipeline", "pipeline.path=chain.yaml"])
    run = site.place / "runs" / "chain"
    site.until(job, lambda: steps(run / "stages/one") >= 2)
    site.slurm.run("scancel", "--batch", "--signal=USR1", job)
    site.until(job, lambda: site.slurm.job(job)["Restarts"] == "1")
    assert site.end(job) == "0:0", site.said(job)
    assert (run / "export/model.safetensors").is_file()
    for stage in ("one", "two"):
        assert [row["step"] for row in metrics(run / "stages" / stage)] == [*range(1, last + 1)]
    site.assert_nothing_is_left(job)


def test_a_stopped_run_saves_and_stays_stopped(site, tiny_untied_model):
    run = site.place / "runs" / "stopped"
    words = told(site, tiny_untied_model, "stopped", f"trainer.steps={NEVER}")
    job = site.submit(TRAIN, "-N1", told=words)
    site.until(job, lambda: steps(run) >= 1)
    site.slurm.run("scancel", "--signal=TERM", job)  # to the steps, as before a preemption
    assert site.end(job) == "130:0", site.said(job)
    assert "interrupted, saved as" in site.said(job)
    saved = (run / "checkpoints" / "latest").read_text().strip()
    assert int(saved.removeprefix("step_")) == steps(run)
    site.assert_nothing_is_left(job)


def test_the_exit_code_is_the_drivers(site, tiny_untied_model):
    job = site.submit(TRAIN, "-N1", told=told(site, tiny_untied_model, "wrong", "trainer.steps=0"))
    assert site.end(job) == "2:0", site.said(job)
    assert "trainer.steps" in site.said(job)
    site.assert_nothing_is_left(job)


def test_a_node_that_never_answers_is_named(site, tiny_untied_model):
    words = told(site, tiny_untied_model, "silent")
    with site.slurm.silent("n2"):
        start = time.monotonic()
        job = site.submit(TRAIN, "-N2", told=words, RLPOST_DEADLINE_S="10")
        site.until(job, lambda: "the preflight failed" in site.said(job), ended=True)
        took_s = time.monotonic() - start
    assert site.end(job) != "0:0"
    assert "n2 did not answer in time" in site.said(job)
    assert took_s < 10 + 60 + 30  # the deadline, srun's own and a busy machine
    assert not (site.place / "runs" / "silent").exists()
    site.assert_nothing_is_left(job)


def test_members_of_a_sweep_run_at_once_and_apart(site, tiny_untied_model):
    words = told(site, tiny_untied_model, "swept", "seed=1,2", "trainer.steps=1")
    job = site.submit(SWEEP, "-N1", "--array=0-1", told=words)
    for index, seed in enumerate((1, 2)):
        member = f"{job}_{index}"
        assert site.end(member) == "0:0", site.said(member)
        run = site.place / "runs" / f"swept-seed={seed}"
        assert _config(run)["seed"] == seed
        assert steps(run) == 1
    assert sorted(p.name for p in (site.place / "runs").glob("swept*")) == [
        "swept-seed=1",
        "swept-seed=2",
    ]
    assert list(site.temporary.iterdir()) == []


def test_a_sweep_has_no_member_beyond_its_last(site, tiny_untied_model):
    words = told(site, tiny_untied_model, "swept", "seed=1,2")
    job = site.submit(SWEEP, "-N1", "--array=2", told=words)
    assert site.end(f"{job}_2") == "2:0"
    assert "submit with --array=0-1" in site.said(f"{job}_2")


def _port(job: str) -> int:
    return 20_000 + int(job) % 1000 * 3


def _config(run: Path) -> dict:
    return yaml.safe_load((run / "config.yaml").read_text())
