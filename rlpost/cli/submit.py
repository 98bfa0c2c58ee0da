"""``rlpost submit <stage> [overrides]``: a stage as a job on a running Ray cluster.

Owns the options and what is printed. Refuses to own what the command means on the cluster
(launch/submittable.py) and the conversation with it (launch/jobs.py).
"""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rlpost.cli.exit_code import exit_code
from rlpost.errors import InfrastructureError

if TYPE_CHECKING:
    from rlpost.launch.jobs import Jobs

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
STOP_WAIT_S = 900


def build_parser() -> argparse.ArgumentParser:
    """Options come before the stage; whatever follows it belongs to the stage."""
    parser = argparse.ArgumentParser(
        prog="rlpost submit",
        usage="rlpost submit [options] stage [overrides]\n"
        "       rlpost submit [options] --follow JOB | --stop JOB",
        description="Run a stage as a job on a Ray cluster started by `ray start --head` with "
        "RAY_AUTH_MODE=token (docs/running.md says how). The "
        "working directory is uploaded without what git ignores; the run directory is not "
        "uploaded and must lie on storage that the cluster's hosts share. Submitting the same "
        "command again resumes the run. Exit codes are those of the stage.",
    )
    parser.add_argument(
        "--address",
        default=os.environ.get("RAY_ADDRESS") or DEFAULT_ADDRESS,
        help="the cluster's dashboard; default $RAY_ADDRESS, else %(default)s",
    )
    parser.add_argument("--name", help="what to call the job; default: the run's name")
    parser.add_argument("--working-dir", type=Path, default=Path.cwd(), help="default: here")
    parser.add_argument(
        "--python",
        default=sys.executable,
        help="interpreter on the cluster's head; where it does not exist, `python`; "
        "default: %(default)s",
    )
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="another environment variable for the job; may be repeated. Everyone on the "
        "cluster can read it",
    )
    parser.add_argument(
        "--stop-wait-s",
        type=int,
        default=STOP_WAIT_S,
        help="how long a stopped job may take to save before Ray kills it; default %(default)s",
    )
    parser.add_argument("--no-wait", action="store_true", help="do not follow the job")
    parser.add_argument("--follow", metavar="JOB", help="follow a job, by its id or name")
    parser.add_argument("--stop", metavar="JOB", help="have a job save and end, by its id or name")
    parser.add_argument("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def main(argv: list[str]) -> int:
    """Submit, follow or stop; returns the job's exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if sum(map(bool, (args.follow, args.stop, args.command))) != 1:
        parser.error("give a stage, or --follow JOB, or --stop JOB")
    verb = _stop if args.stop else _follow_named if args.follow else _submit

    def command() -> int:
        try:
            return verb(args)
        except InfrastructureError as error:  # of the cluster, not of the run
            print(f"error: {error}", file=sys.stderr)
            return 1

    return exit_code(command, stage=next(iter(args.command), None))


def _submit(args: argparse.Namespace) -> int:
    from rlpost.launch.job_request import EXCLUDES, JobRequest, passed_on
    from rlpost.launch.jobs import Jobs
    from rlpost.launch.submittable import submittable

    stage = submittable(args.command)
    working_dir = args.working_dir.resolve()
    request = JobRequest(
        name=args.name or stage.run_name,
        argv=stage.argv,
        working_dir=working_dir,
        python=args.python,
        stop_wait_s=args.stop_wait_s,
        excludes=(*EXCLUDES, *_inside(stage.run_root, working_dir)),
        env=passed_on(os.environ, args.env),
    )
    jobs = Jobs.at(args.address)
    job = jobs.submit(request)
    print(f"job {job} is submitted to {jobs.address}")
    print(f"run directory, on the cluster: {stage.run_root / stage.run_name}", flush=True)
    if args.no_wait:
        _say_how_to_go_on(job)
        return 0
    return _follow(jobs, job)


def _follow_named(args: argparse.Namespace) -> int:
    from rlpost.launch.jobs import Jobs

    jobs = Jobs.at(args.address)
    return _follow(jobs, jobs.find(args.follow))


def _stop(args: argparse.Namespace) -> int:
    from rlpost.launch.jobs import Jobs

    jobs = Jobs.at(args.address)
    job = jobs.find(args.stop)
    length = jobs.log_length(job)
    jobs.stop(job)
    print(f"job {job} is asked to save and end", flush=True)
    if args.no_wait:
        return 0
    code = _follow(jobs, job, skip=length)
    return 0 if code == 130 else code


def _follow(jobs: "Jobs", job: str, *, skip: int = 0) -> int:
    try:
        end = jobs.follow(job, write=_write, skip=skip)
    except KeyboardInterrupt:
        print(f"\nno longer following; job {job} goes on")
        _say_how_to_go_on(job)
        return 130
    if end.message:
        print(f"error: {end.message}", file=sys.stderr)
    return end.exit_code


def _say_how_to_go_on(job: str) -> None:
    print(f"follow it: rlpost submit --follow {job}")
    print(f"have it save and end: rlpost submit --stop {job}", flush=True)


def _write(text: str) -> None:
    print(text, end="", flush=True)


def _inside(path: Path, directory: Path) -> tuple[str, ...]:
    """``path`` as a pattern of files not to upload, if it lies in ``directory``."""
    if path.is_relative_to(directory) and path != directory:
        return (f"/{path.relative_to(directory)}",)
    return ()
