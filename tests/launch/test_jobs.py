"""What a Ray job of ours is and how its end is read; the cluster itself: tests/operations/."""

import json
import subprocess
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rlpost import __version__
from rlpost.cli.job import main as job_main
from rlpost.cli.main import main
from rlpost.errors import UserError
from rlpost.launch.job_follow import Shown, end_of
from rlpost.launch.job_request import (
    EXCLUDES,
    STOP_WAIT,
    JobRequest,
    ended_with,
    ending,
    next_id,
    passed_on,
)
from rlpost.launch.submittable import submittable


def request(**changes) -> JobRequest:
    settings = {
        "name": "run",
        "argv": ("rl", "run.dir='/a b'"),
        "working_dir": Path("/"),
        "python": "/no such/python",
        "stop_wait_s": 900,
    }
    return JobRequest(**(settings | changes))


# -- the command -----------------------------------------------------------------------------


def test_the_shell_gives_the_stage_exactly_its_arguments(tmp_path):
    """Through a real shell, with an interpreter that prints what it is given."""
    python = tmp_path / "my python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    argv = ("rl", "run.dir='/a b'", "data.train=$HOME;x", 'loss.kind="q"')
    entrypoint = request(python=str(python), argv=argv).entrypoint
    said = subprocess.run(entrypoint, shell=True, capture_output=True, text=True, check=True)
    assert said.stdout.splitlines() == ["-m", "rlpost.cli.job", __version__, *argv]


def test_a_host_without_that_interpreter_uses_its_own(tmp_path):
    (tmp_path / "python").write_text("#!/bin/sh\necho the other python\n")
    (tmp_path / "python").chmod(0o755)
    said = subprocess.run(
        ["/bin/sh", "-c", request().entrypoint],
        env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout == "the other python\n"


def test_the_shell_becomes_the_driver():
    """Ray signals the process it started: a shell in between would die in the driver's stead."""
    process = subprocess.run(
        ["/bin/sh", "-c", "echo $$; " + request(python="/bin/sh").entrypoint.replace(
            "-m rlpost.cli.job", "-c 'echo $$'")],
        capture_output=True, text=True,
    )  # fmt: skip
    shell, driver = process.stdout.split()
    assert shell == driver


def test_a_job_says_how_long_a_stop_may_take():
    env = request(stop_wait_s=7, env={"A": "1"}).runtime_env["env_vars"]
    assert env == {"A": "1", STOP_WAIT: "7"}


def test_outputs_do_not_change_what_is_uploaded(tmp_path):
    """Ray names an upload by its content: a resubmission uploads nothing."""
    from ray._private.runtime_env.packaging import get_uri_for_directory

    def uri() -> str:
        return get_uri_for_directory(str(tmp_path), include_gitignore=True, excludes=list(EXCLUDES))

    (tmp_path / "reward.py").write_text("a")
    before = uri()
    for name in ("runs/x/metrics.jsonl", ".venv/bin/python", ".cache/m", ".git/HEAD"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("b")
    assert uri() == before
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "runs").write_text("not an output: it lies elsewhere")
    assert uri() != before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "a/b"}, "--name must start"),
        ({"name": ""}, "--name must start"),
        ({"stop_wait_s": 0}, "--stop-wait-s must be at least 1, got 0"),
        ({"working_dir": Path("/nowhere")}, "/nowhere is no directory"),
    ],
)
def test_impossible_requests_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        request(**changes)
    request()


def test_the_environment_that_goes_along():
    environ = {"RLPOST_CACHE": "/c", "HF_TOKEN": "secret", "HOME": "/h"}
    assert passed_on(environ) == {"RLPOST_CACHE": "/c"}
    assert passed_on(environ, ["HF_TOKEN", "RLPOST_CACHE=/d", "A="]) == {
        "RLPOST_CACHE": "/d", "HF_TOKEN": "secret", "A": "",
    }  # fmt: skip
    with pytest.raises(UserError, match="--env B: it is not set here"):
        passed_on(environ, ["B"])


def test_an_id_is_never_used_twice():
    assert next_id("a", []) == "a"
    assert next_id("a", ["a", "b", "a-3"]) == "a-2"
    assert next_id("a", ["a", "a-2"]) == "a-3"


# -- what a command line means there ---------------------------------------------------------


def test_the_run_directory_survives_the_jobs_copy_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stage = submittable(["rl", "experiment=quickstart", "run.dir=out"])
    assert stage.run_root == tmp_path / "out" and stage.run_name == "quickstart"
    assert stage.argv == (
        "rl", "experiment=quickstart", "run.dir=out", f"run.dir='{tmp_path}/out'",
        "cluster.address=auto",
    )  # fmt: skip
    assert submittable(["rl"]).run_root == tmp_path / "runs"
    assert submittable(["rl"]).run_name == "rl"


def test_a_sweep_keeps_its_members(tmp_path, monkeypatch):
    (tmp_path / "it's, here").mkdir()
    monkeypatch.chdir(tmp_path / "it's, here")
    stage = submittable(["rl", "-m", "seed=1,2"])
    assert stage.argv[:3] == ("rl", "-m", "seed=1,2")
    assert submittable(list(stage.argv)).run_root == stage.run_root  # hydra reads the quotes back


def test_a_cluster_that_was_named_is_kept():
    argv = submittable(["rl", "cluster.address=10.0.0.1:6379"]).argv
    assert "cluster.address=auto" not in argv


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["rl", "trainer.lrr=1"], "did you mean trainer.lr?"),
        (["doctor"], "can be submitted, got 'doctor'"),
        (["rl", "--no-wait"], "give options of submit before the stage"),
        (["--address", "auto", "rl"], "--address must be that of the cluster's dashboard"),
        (["--address", "http://x:y", "rl"], "--address must be that of the cluster's dashboard"),
        (["--address", "http://127.0.0.1:1", "rl"], "nothing answers at http://127.0.0.1:1"),
        (["--address", "http://127.0.0.1:1", "--stop", "a"], "nothing answers"),
    ],
)
def test_mistakes_that_can_be_seen_from_here(argv, message, capsys):
    assert main(["submit", *argv]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert message in said and "Traceback" not in said


def test_exactly_one_thing_is_asked_for(capsys):
    for argv in ([], ["--stop", "a", "rl"], ["--stop", "a", "--follow", "a"]):
        with pytest.raises(SystemExit) as error:
            main(["submit", *argv])
        assert error.value.code == 2


@pytest.fixture
def dashboard():
    """Serves one answer to everything; yields (address, set_answer)."""
    answer = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):  # the name is http.server's
            self.send_response(answer["status"])
            self.end_headers()
            self.wfile.write(answer["body"].encode())

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", answer.update
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (200, json.dumps({"ray_version": "2.99.0"}), "runs Ray 2.99.0 and this is Ray"),
        (401, "Unauthorized", "asks for a token"),
        (403, "Forbidden", "refuses the token"),
        (404, "", "does not answer like a Ray dashboard"),
        (200, "<html>", "does not answer like a Ray dashboard"),
    ],
)
def test_a_cluster_that_cannot_take_the_job(dashboard, status, body, message, capsys, monkeypatch):
    address, set_answer = dashboard
    set_answer({"status": status, "body": body})
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://elsewhere:1")  # --address wins
    assert main(["submit", "--address", address, "rl"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert message in said and "Traceback" not in said


# -- inside the job --------------------------------------------------------------------------


def test_another_rlpost_than_the_submitters_is_refused(capsys):
    assert job_main(["0.0.0", "doctor"]) == 2
    said = capsys.readouterr()
    assert f"rlpost 0.0.0, and the cluster runs rlpost {__version__}" in " ".join(said.err.split())
    assert said.out.splitlines()[-1] == "rlpost job: exit code 2"


def test_the_last_line_is_the_stages_exit_code(capsys):
    assert job_main([__version__, "rl", "trainer.lrr=1"]) == 2
    assert ended_with(capsys.readouterr().out) == 2


# -- the end ---------------------------------------------------------------------------------


@dataclass
class Info:
    status: str
    driver_exit_code: int | None = None
    message: str | None = None


@pytest.mark.parametrize(
    ("info", "log", "code", "message"),
    [
        (Info("SUCCEEDED", 0), ending(0), 0, None),
        (Info("FAILED", 1), ending(1), 1, None),
        (Info("FAILED", 2), "", 2, None),
        (Info("STOPPED"), ending(130) + "\n", 130, None),
        (Info("FAILED"), ending(3) + "\n", 3, None),  # a gate stopped a pipeline
        (Info("STOPPED"), "step 3", 1, "was stopped; submit the same command again"),
        (Info("FAILED", -9), "step 3", 1, "was killed by signal 9"),
        (Info("FAILED", None, "no room\nat all"), "", 1, "failed: no room;"),
        (Info("FAILED", 127), "", 1, "failed (exit code 127)"),
    ],
)
def test_how_a_job_ended(info, log, code, message):
    end = end_of("run", info, reported=ended_with(log))
    assert end.exit_code == code
    assert end.message is None if message is None else message in end.message


def test_only_the_last_word_counts():
    assert ended_with(f"{ending(1)}\nx {ending(2)}\n{ending(130)}\n") == 130
    assert ended_with("rlpost job: exit code many") is None


def test_a_log_read_twice_is_written_once():
    out = []
    shown = Shown(out.append, skip=2)
    for piece in ("abc", "d"):
        shown.add(piece)
    shown.restart()
    for piece in ("a", "bcde", "f"):
        shown.add(piece)
    assert "".join(out) == "cdef"
