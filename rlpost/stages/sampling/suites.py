"""Suites scored during training: generators answer with the weights of the moment.

Owns what a stage that learns from a data set needs for that: the checks, the roles, the push before
each scoring and the scoring. Refuses to own the questions, the answers' scores (evaluation/) and
when it happens (stages/fit.py). Invariants: without suites nothing of it exists; what is scored is
what the trainer holds, proved by the probe of the push; the same items and seeds are asked at every
step, as ``rlpost evaluate`` asks them.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlpost.cluster.session import Device
from rlpost.cluster.trained import MakeSender
from rlpost.cluster.verifiers import RemoteVerifiers
from rlpost.data.dataset import DataConfig, PromptDataset
from rlpost.data.encoder import PromptTooLong
from rlpost.errors import UserError
from rlpost.evaluation.scores import measured_names
from rlpost.models.shape import model_shape
from rlpost.rollout.device_defaults import shortest_length
from rlpost.rollout.generator_config import AdapterCapacity, GeneratorConfig
from rlpost.stages.policy import CheckedPolicy
from rlpost.stages.roles import Role, close_all
from rlpost.stages.run import Run
from rlpost.stages.run_directory import RunDirectory
from rlpost.stages.sampling.backend import require_architecture
from rlpost.stages.sampling.examiner import Examiner, heldout_metrics
from rlpost.stages.sampling.generation import generation_of, generators_role
from rlpost.stages.sampling.generator_settings import (
    adapter_capacity,
    check_deadlines,
    resolve_generator,
    resolve_pushed,
)
from rlpost.stages.sampling.judged_source import JudgedSource, load_prompts, suite_source
from rlpost.stages.sampling.probe import probe_of
from rlpost.stages.sampling.serving import push_policy, wait_for_generators
from rlpost.stages.sampling.verifiers_role import verifiers_role
from rlpost.stages.step_record import StepRecord
from rlpost.tracking.tracker import Phase
from rlpost.types import Prompt, SamplingConfig
from rlpost.weights.bus import WeightBus
from rlpost.weights.publisher import sender_factory

ALL_ITEMS = 10**6  # more than any suite has


@dataclass(frozen=True, kw_only=True)
class SuitesPlan:
    """The suites of a run and who answers and judges them; nothing was started yet."""

    sources: tuple[JudgedSource, ...]
    prompts: Mapping[str, PromptDataset]  # by the name of the suite
    generator: GeneratorConfig  # with dtype, threads and length resolved
    roles: tuple[Role, ...]  # the generators, then the verifiers of each suite
    make_sender: MakeSender  # of the policy's ranks
    measured: tuple[str, ...]  # names of what each scoring measures
    adapters: AdapterCapacity | None  # in each engine; None: whole models are pushed


def plan_suites(
    cfg: Any, *, policy: CheckedPolicy, device: Device, directory: RunDirectory
) -> SuitesPlan | None:
    """Check what suites need; None: there are none.

    Args:
        cfg: options of a stage that learns from a data set, which passed ``check_suites``.
        policy: what answers.
        device: where models will run.
        directory: where the run will live.

    Raises:
        UserError: no generator can run the model, or an item does not fit into it.
    """
    evaluation = cfg.evaluation
    if not evaluation.suites:
        return None
    architecture = policy.directory.config.architectures[0]
    require_architecture(cfg.generator, architecture, field=policy.directory.field)
    check_deadlines(cfg, device=device)
    generator = resolve_generator(
        cfg.generator,
        cluster=cfg.cluster,
        device=device,
        model_path=policy.path,
        max_tokens=evaluation.max_tokens,
        field="evaluation.max_tokens",
        trainer=cfg.trainer,
    )
    adapters = adapter_capacity(
        policy.adapter,
        architecture=architecture,
        has_experts=model_shape(policy.path).experts is not None,
        device=device,
        max_staleness=0,
    )
    generator = resolve_pushed(generator, cfg, device=device, adapters=adapters, runs_ahead=False)
    assert generator.max_model_len is not None
    longest = generator.max_model_len - evaluation.max_tokens
    size = evaluation.suite_size or ALL_ITEMS
    sources = tuple(
        suite_source(name, DataConfig(heldout=f"suite:{name}", heldout_size=size))
        for name in evaluation.suites
    )
    prompts = {each.name: _items(each, policy.tokenizer, longest=longest) for each in sources}
    generator = shortest_length(
        generator,
        given=cfg.generator.max_model_len,
        on_gpu=device is Device.cuda,
        longest_prompt=max(rows.longest_prompt for rows in prompts.values()),
        max_tokens=evaluation.max_tokens,
    )
    return SuitesPlan(
        sources=sources,
        prompts=prompts,
        generator=generator,
        adapters=adapters,
        roles=(
            generators_role(generator, model_path=policy.path, device=device, adapters=adapters),
            *(_judges(each, cfg, policy) for each in sources),
        ),
        make_sender=sender_factory(
            cfg.weights,
            run_id=directory.host_wide_id,
            root=directory.root / ".weights",
            on_gpu=device is Device.cuda,
        ),
        measured=tuple(
            name
            for source in sources
            for name in measured_names(source.name, samples=evaluation.samples)
        ),
    )


def _judges(source: JudgedSource, cfg: Any, policy: CheckedPolicy) -> Role:
    return verifiers_role(
        cfg.cluster,
        source.verifiers,
        tokenizer=policy.tokenizer,
        name=f"verifiers of {source.name}",
    )


def _items(source: JudgedSource, tokenizer: Any, *, longest: int) -> PromptDataset:
    try:
        return load_prompts(source, tokenizer, longest=longest)
    except PromptTooLong as error:
        raise UserError(
            f"evaluation.max_tokens leaves {longest} tokens for an item of {source.name}, and that "
            f"is too little ({error.args[0].partition(';')[0]}); lower evaluation.max_tokens"
        ) from error


class SuiteEngines:
    """Generators and verifiers of a run that scores suites, from their start to their end.

    Without a plan there are none, and nothing is scored.

    Example::

        async with SuiteEngines(plan.suites, cfg, run, model_path=path) as engines:
            groups = await run.start(plan.roles, supervised=engines.boot)
            policy, *others = engines.without_own(groups)
            fit = Fit(..., suites=engines.scores(groups))
    """

    def __init__(self, plan: SuitesPlan | None, cfg: Any, run: Run, *, model_path: str) -> None:
        """Keep what is needed to start ``model_path``; ``cfg`` are the options of the stage."""
        self._plan, self._cfg, self._run = plan, cfg, run
        self._generation = (
            None
            if plan is None
            else generation_of(
                run,
                cfg,
                plan.generator,
                model_path=model_path,
                adapters=plan.adapters,
                group_size=cfg.evaluation.samples,
            )
        )
        self._judges: Sequence[RemoteVerifiers] = ()

    async def __aenter__(self) -> "SuiteEngines":
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._generation is not None:
            await close_all([self._generation.supervisor, *self._judges])

    @property
    def boot(self) -> Callable[[], Awaitable[None]] | None:
        """What starts the generators, side by side with the other roles; None: there are none."""
        return None if self._generation is None else self._generation.supervisor.boot

    def without_own(self, groups: Sequence[Any]) -> Sequence[Any]:
        """Return the groups of the roles before those of suites, which are the last of a run."""
        return groups if self._plan is None else groups[: -len(self._plan.roles)]

    def scores(self, groups: Sequence[Any]) -> "SuiteScores | None":
        """Connect the generators with the policy, which is the first group, and the verifiers.

        From here on they are looked after as long as the run is.
        """
        if self._plan is None or self._generation is None:
            return None
        plan, cfg, run, generation = self._plan, self._cfg, self._run, self._generation
        policy, self._judges = groups[0], groups[-len(plan.sources) :]
        evaluation = cfg.evaluation
        sampling = SamplingConfig(
            max_tokens=evaluation.max_tokens, temperature=evaluation.temperature
        )
        bus = generation.bus(
            policy.source,
            trainer=cfg.trainer,
            weights=cfg.weights,
            probe=probe_of(plan.prompts[plan.sources[0].name], cfg.weights),
            trained=list(run.trained.values()),
        )
        run.guard = lambda: generation.supervisor.run(bus)
        run.describes.append(generation.fleet.describe)
        return SuiteScores(
            run=run,
            bus=bus,
            examiners={
                source.name: Examiner(
                    collector=generation.collector(
                        [judge],
                        combination=source.combination,
                        purpose=source.name,
                        finished=run.progress,
                    ),
                    sampling=sampling,
                    samples=evaluation.samples,
                    seed=cfg.seed,
                )
                for source, judge in zip(plan.sources, self._judges, strict=True)
            },
            prompts={
                name: [rows.prompt(0, row) for row in range(len(rows))]
                for name, rows in plan.prompts.items()
            },
            every=evaluation.suite_every,
            sleep=policy.sleep if cfg.cluster.offload_idle else None,
        )


@dataclass(frozen=True, kw_only=True)
class SuiteScores:
    """Measures ``val-core/<suite>/acc/mean@N`` and its interval, and what else evaluations do."""

    run: Run
    bus: WeightBus
    examiners: Mapping[str, Examiner]  # by suite
    prompts: Mapping[str, Sequence[Prompt]]
    every: int | None = None  # steps; None: whenever there is an evaluation
    sleep: Callable[[], Awaitable[int]] | None = None  # of the policy, while generators work

    def due(self, step: int) -> bool:
        """Whether an evaluation of the weights of ``step`` scores suites, too."""
        whole = step == 0 or step >= self.run.cfg.trainer.steps
        return self.every is None or whole or step % self.every == 0

    async def measure(self, record: StepRecord) -> None:
        """Push the policy, have every item answered and judged, and record the scores.

        Raises:
            Interrupted: the person asked to stop.
            GroupLost: the trainer is gone.
            RunFailed: too many failures in a row.
        """
        await push_policy(self.bus, run=self.run, record=record)
        if self.sleep is not None:
            await self.sleep()
        for name, examiner in self.examiners.items():
            self.run.tracker.phase(Phase.evaluating, f"suite {name}")
            examination = await wait_for_generators(
                examiner.examine(self.prompts[name]), bus=self.bus, run=self.run
            )
            record.add(
                heldout_metrics(examination, dataset=name, samples=examiner.samples, intervals=True)
            )

    def forget_pushed(self) -> None:
        """What was pushed last is gone, with the trainer that held it."""
        self.bus.forget_served()
