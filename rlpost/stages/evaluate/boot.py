"""How the parts of an evaluation come to be, and how they end.

Owns assembly and tear-down. Refuses to own the checks (plan.py) and the order (job.py). Invariant:
the engines of one model are gone before those of the next one start, so two models need the memory
of one.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rlpost.cluster.session import Session
from rlpost.cluster.verifiers import RemoteVerifiers, spawn_verifiers
from rlpost.control.failures import Budget
from rlpost.control.watchdog import Watchdog
from rlpost.rollout.collector import Collector
from rlpost.rollout.device_defaults import groups_at_once
from rlpost.rollout.endpoint import Endpoint
from rlpost.stages.evaluate.answers_file import AnswersFile
from rlpost.stages.evaluate.job import Evaluation, OpenModel
from rlpost.stages.evaluate.plan import EvaluatePlan, Examinee
from rlpost.stages.roles import actors_of
from rlpost.stages.sampling.generation import Generation
from rlpost.stages.sampling.judged_source import JudgedSource
from rlpost.tracking.tracker import Trackers
from rlpost.weights.standing import StandingWeights


@dataclass(frozen=True, kw_only=True)
class EvaluationRun:
    """What the parts of one evaluation share."""

    session: Session
    tracker: Trackers
    file: AnswersFile
    clock: Callable[[], float]
    watchdog: Watchdog

    def progress(self, what: str) -> None:
        """Something was finished: the run is not stuck."""
        self.watchdog.progress(what, now_s=self.clock())


@asynccontextmanager
async def boot(plan: EvaluatePlan, run: EvaluationRun) -> AsyncIterator[Evaluation]:
    """Reserve the slots of the generators and yield the evaluation, which starts them.

    Raises:
        UserError: not every generator fits into the cluster.
    """
    if plan.roles:
        run.session.place(actors_of(plan.roles))
    yield Evaluation(
        plan=plan,
        file=run.file,
        tracker=run.tracker,
        open=partial(_opened if plan.roles else _opened_endpoint, plan, run),
    )


@asynccontextmanager
async def _opened(
    plan: EvaluatePlan, run: EvaluationRun, examinee: Examinee
) -> AsyncIterator[OpenModel]:
    """Start the engines of one model and look after them; end them."""
    cfg = plan.cfg
    assert examinee.generator is not None
    async with AsyncExitStack() as stack:
        scratch = run.file.path.with_name(f".{examinee.role}-merged")
        path = await stack.enter_async_context(_whole_model(examinee, scratch))
        generation = Generation(
            run.session,
            examinee.generator,
            model_path=path,
            cluster=cfg.cluster,
            failures=cfg.failures,
            watchdog=run.watchdog,
            permits=groups_at_once(examinee.generator, group_size=cfg.samples),
            span=lambda lane, name, start_s, end_s: run.tracker.span(
                lane, name, start_s=start_s, end_s=end_s
            ),
        )
        stack.push_async_callback(generation.supervisor.dismiss)

        def collector_of(source: JudgedSource) -> Collector:
            judges = _judges(plan, run, examinee, source, stack)
            return generation.collector(
                [judges],
                combination=source.combination,
                purpose=source.name,
                finished=run.progress,
            )

        await generation.supervisor.boot()
        weights = StandingWeights(generation.fleet)
        yield OpenModel(collector_of=collector_of, guard=lambda: generation.supervisor.run(weights))


@asynccontextmanager
async def _whole_model(examinee: Examinee, scratch: Path) -> AsyncIterator[str]:
    """Yield the directory of what answers; with an adapter it is a copy that is removed again."""
    if examinee.adapter is None:
        yield examinee.path
        return
    shutil.rmtree(scratch, ignore_errors=True)  # of an evaluation that was killed
    try:
        await asyncio.to_thread(examinee.adapter.write, scratch)
        yield str(scratch.resolve())
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@asynccontextmanager
async def _opened_endpoint(
    plan: EvaluatePlan, run: EvaluationRun, examinee: Examinee
) -> AsyncIterator[OpenModel]:
    """See whether the endpoint answers; end the connections."""
    failures = plan.cfg.failures
    budget = Budget(failures.failures_in_a_row, of="failures", field="failures.failures_in_a_row")
    async with AsyncExitStack() as stack:
        endpoint = await stack.enter_async_context(Endpoint(cfg=plan.cfg.endpoint))
        await endpoint.require_answers()

        def collector_of(source: JudgedSource) -> Collector:
            return Collector(
                endpoint,
                judges=[_judges(plan, run, examinee, source, stack)],
                combination=source.combination,
                purpose=source.name,
                failures=failures,
                budget=budget,
                finished=run.progress,
            )

        async def guard() -> None:
            await asyncio.Event().wait()  # each request has a deadline of its own

        yield OpenModel(collector_of=collector_of, guard=guard)


def _judges(
    plan: EvaluatePlan,
    run: EvaluationRun,
    examinee: Examinee,
    source: JudgedSource,
    stack: AsyncExitStack,
) -> RemoteVerifiers:
    """Start who judges the answers to a source, until ``stack`` ends."""
    judges = spawn_verifiers(
        run.session, plan.cfg.cluster, configs=source.verifiers, decode=examinee.decode
    )
    stack.push_async_callback(judges.close)
    return judges
