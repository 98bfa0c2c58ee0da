"""The members of a sweep, run to the end of the last.

Owns the record of its members, its exit code and its page. Refuses to own how members are started
(hydra's launcher). Invariants: a member that fails stops no other; the sweep's exit code is the
worst of its members'.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from rlpost.launch.sweep.report import finish
from rlpost.launch.sweep.sweep import Sweep
from rlpost.tracking.files.sweep_record import MemberRecord, MemberState, read_members, write_member


def run_sweep(
    sweep: Sweep,
    start: Callable[[Callable[..., Any], Sequence[str]], None],
    *,
    run: Callable[[Any], int],
) -> int:
    """Run every member; returns the worst exit code.

    ``start`` gives hydra the function of one member and the command line; ``run`` runs a
    composed member and returns its exit code, whatever happens.
    """

    def task(composed: Any) -> MemberRecord:
        return _run_here(sweep, composed, run)

    task.sweep = sweep  # type: ignore[attr-defined]  # for launchers that start commands
    try:
        start(task, sweep.argv)
    finally:  # submitit raises where a member's process was killed; the others go on
        ours = [each for each in read_members(sweep.directory) if each.token == sweep.token]
        if ours:
            finish(sweep)
    return max((_code(each) for each in ours), default=0)


def _code(record: MemberRecord) -> int:
    if record.state is MemberState.waiting:
        return 130  # only an interruption leaves one out
    return record.exit_code if record.exit_code is not None and record.exit_code >= 0 else 1


def _run_here(sweep: Sweep, composed: Any, run: Callable[[Any], int]) -> MemberRecord:
    """Run a member in a process that hydra's own launchers prepared (submitit, basic)."""
    from hydra.core.hydra_config import HydraConfig

    job = HydraConfig.get()
    record = sweep.member(composed, list(job.overrides.task), number=job.job.num)
    composed.run.name = record.name
    composed.tracking.group = composed.tracking.group or sweep.name
    write_member(sweep.directory, replace(record, state=MemberState.running))
    record = record.ended(run(composed))
    write_member(sweep.directory, record)
    return record
