"""hydra's launcher ``processes``: each member of a sweep is a command of its own.

Owns starting members, at most ``n_jobs`` at a time, passing signals on and waiting. Refuses to
own what a member does: it is ``rlpost <stage> ...`` as a person would type it, here or (launcher
``ray_jobs``) on a Ray cluster, which is why one that crashes, is killed or runs out of memory
takes no other with it. Invariants: a signal
reaches each running member once, so that it saves; a sweep that is killed takes its members
with it. Why not hydra's joblib launcher: docs/decisions/0013.
"""

import asyncio
import logging
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import open_dict

from rlpost.bounds import check_config, number, option
from rlpost.child_processes import ends_with_us
from rlpost.config.quoting import quoted
from rlpost.errors import UserError
from rlpost.launch.sweep.names import key_of
from rlpost.launch.sweep.report import say_ended, say_planned, say_started
from rlpost.launch.sweep.sweep import Sweep
from rlpost.tracking.files.sweep_record import MemberRecord, MemberState, write_member

log = logging.getLogger(__name__)

PROGRAM = (sys.executable, "-m", "rlpost.cli.main")
_OURS = ("run.name", "tracking.group")  # options that the sweep itself gives its members


@dataclass(kw_only=True)
class ProcessesConfig:
    """Options of ``hydra/launcher=processes``, under ``hydra.launcher``."""

    _target_: str
    n_jobs: int = number(1, at_least=1, at_most=1000, help="members that run at the same time")


@dataclass(kw_only=True)
class RayJobsConfig(ProcessesConfig):
    """Options of ``hydra/launcher=ray_jobs``, under ``hydra.launcher``."""

    address: str | None = option(None, help="the cluster's dashboard; null: as `rlpost submit`")


class ProcessLauncher(Launcher):
    """Runs members as child processes of this one."""

    def __init__(self, n_jobs: int) -> None:
        check_config(ProcessesConfig(_target_="", n_jobs=n_jobs), "hydra.launcher")
        self.n_jobs = n_jobs
        self.interrupted = False  # by a signal: nothing more is started

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self._context, self._config = hydra_context, config
        self._sweep: Sweep = task_function.sweep

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the members and return, as the value of each, its record."""
        planned = [
            self._plan(list(overrides), initial_job_idx + index)
            for index, overrides in enumerate(job_overrides)
        ]
        say_planned(self._sweep, [record for _, record, _ in planned], n_jobs=self.n_jobs)
        records = asyncio.run(self._run([(record, command) for _, record, command in planned]))
        return [
            _job_return(config, list(overrides), record)
            for (config, _, _), overrides, record in zip(
                planned, job_overrides, records, strict=True
            )
        ]

    def _plan(self, overrides: list[str], number: int) -> tuple[Any, MemberRecord, list[str]]:
        config = self._context.config_loader.load_sweep_config(self._config, overrides)
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        record = self._sweep.member(config, overrides, number=number)
        write_member(self._sweep.directory, record)
        group = config.tracking.group or self._sweep.name
        return config, record, self.command(self._sweep, record.name, overrides, group=group)

    def command(self, sweep: Sweep, name: str, overrides: list[str], *, group: str) -> list[str]:
        """Return the command of one member: what a person types to run it alone."""
        return [*PROGRAM, sweep.stage, *sweep.found_by, *member_options(name, overrides, group)]

    async def _run(self, planned: list[tuple[MemberRecord, list[str]]]) -> list[MemberRecord]:
        running: dict[str, asyncio.subprocess.Process] = {}
        turn = asyncio.Semaphore(self.n_jobs)

        def pass_on(signum: int) -> None:
            self.interrupted = True
            for process in running.values():
                process.send_signal(signum)

        async def one(record: MemberRecord, command: list[str]) -> MemberRecord:
            async with turn:
                if self.interrupted:
                    return record
                return await self._one(record, command, running)

        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signum, pass_on, signum)
        return list(await asyncio.gather(*(one(*each) for each in planned)))

    async def _one(
        self,
        record: MemberRecord,
        command: list[str],
        running: dict[str, asyncio.subprocess.Process],
    ) -> MemberRecord:
        path = log_path(self._sweep, record)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as output:
            output.write(f"$ {shlex.join(command)}\n".encode())
            output.flush()
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C comes from us, once
                preexec_fn=ends_with_us(sent=signal.SIGTERM),  # it saves and ends
            )
        running[record.name] = process
        record = replace(record, state=MemberState.running)
        write_member(self._sweep.directory, record)
        say_started(self._sweep, record)
        code = await process.wait()
        del running[record.name]
        message = "" if code == 0 else _last_words(path, code)
        if code < 0 and self.interrupted:
            code = 130  # it had not begun to listen for signals
        record = record.ended(code, message=message)
        write_member(self._sweep.directory, record)
        say_ended(self._sweep, record)
        return record


class RayJobLauncher(ProcessLauncher):
    """Runs members as Ray jobs: each child process is a ``rlpost submit`` that follows one."""

    def __init__(self, n_jobs: int, address: str | None) -> None:
        super().__init__(n_jobs)
        self.address = address

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        """Remember the sweep.

        Raises:
            UserError: the sweep's YAML lies where the cluster does not look.
        """
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        if self._sweep.found_by:
            raise UserError(
                f"hydra/launcher=ray_jobs: {self._sweep.found_by[0]} is not known on the cluster; "
                "put the YAML into configs/ of the installed package"
            )

    def command(self, sweep: Sweep, name: str, overrides: list[str], *, group: str) -> list[str]:
        """Return the command that submits one member, under its own name."""
        where = [] if self.address is None else ["--address", self.address]
        options = member_options(name, overrides, group)
        return [*PROGRAM, "submit", *where, "--name", name, sweep.stage, *options]


def member_options(name: str, overrides: list[str], group: str) -> list[str]:
    """Return the overrides of one member with what the sweep gives it."""
    kept = [each for each in overrides if key_of(each).lstrip("+") not in _OURS]
    return [*kept, f"run.name={quoted(name)}", f"tracking.group={quoted(group)}"]


def log_path(sweep: Sweep, record: MemberRecord) -> Path:
    """Return where the terminal output of a member goes."""
    return sweep.directory / "logs" / f"{record.name}.log"


def _last_words(path: Path, code: int) -> str:
    """Return why a command ended, from the end of its output."""
    killed = f"killed by {signal.Signals(-code).name}" if code < 0 else ""
    text = path.read_text(encoding="utf-8", errors="replace").rstrip()
    said = text.rpartition("error: ")[2] if "error: " in text else text.rpartition("\n")[2]
    return killed or " ".join(said.split())[-600:]


def _job_return(config: Any, overrides: list[str], record: MemberRecord) -> JobReturn:
    job = JobReturn()
    job.overrides, job.cfg = overrides, config
    job.working_dir, job.task_name = str(Path.cwd()), config.hydra.job.name
    job.status, job.return_value = JobStatus.COMPLETED, record
    return job
