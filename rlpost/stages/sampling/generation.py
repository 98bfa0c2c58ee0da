"""What samples: generators, their supervisor and dispatcher, and the bus to them.

Owns their assembly, for a stage and for loops of one's own. Refuses to own when they run and
what is trained.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from rlpost.cluster.generators import GeneratorFactory
from rlpost.cluster.session import ClusterConfig, Device, Session
from rlpost.cluster.supervision import Supervisor, generator_name
from rlpost.cluster.trained import TrainedGroup, WeightSource
from rlpost.control.failures import Budget, GenerationFailureConfig
from rlpost.control.fleet import Fleet
from rlpost.control.placement import ActorSpec
from rlpost.control.watchdog import Watchdog
from rlpost.models.footprint import Footprint
from rlpost.models.shape import model_shape
from rlpost.rollout.collector import Collector, GroupJudge, OnVerifierError
from rlpost.rollout.device_defaults import groups_at_once, in_words, with_device_defaults
from rlpost.rollout.dispatch import Dispatcher, Span, no_span
from rlpost.rollout.generator_config import (
    AdapterCapacity,
    Backend,
    GeneratorConfig,
    GeneratorDtype,
)
from rlpost.rollout.interruption import Interruption
from rlpost.rollout.protocol import RestartableGenerator
from rlpost.rollout.sglang.memory import server_footprint
from rlpost.rollout.signal import Signal
from rlpost.rollout.vllm.memory import generator_footprint, payload_bytes, sender_pages
from rlpost.stages.roles import Role, Workload, counted, sleep_all
from rlpost.stages.run import Run
from rlpost.stages.sampling.backend import shows_kernels
from rlpost.stages.scale_request import requested_generators
from rlpost.training.precision import resolve_dtype
from rlpost.training.settings import TrainerConfig
from rlpost.verifiers.combine import Combination
from rlpost.weights.bus import WeightBus
from rlpost.weights.deadline import phase_deadline_s
from rlpost.weights.protocol import BusConfig
from rlpost.weights.publisher import WeightsConfig
from rlpost.weights.transports.protocol import Seat


class Generation:
    """Fleet, supervisor and dispatcher of the generators, and what they share.

    Args:
        session: where they run.
        cfg: the engines', resolved.
        model_path: what they load.
        adapters: room for the adapters that are pushed; None: whole models are, or nothing.
        pushed: weights are pushed before the first request, so engines need not read a whole model.
        cluster: gives the deadline of a call.
        failures: pace of pings and restarts.
        watchdog: looked at by the supervisor.
        permits: most groups that a generator works on at once.
        span: called after every request.
        wanted: how many generators there should be; None: as many as there are.
    """

    def __init__(
        self,
        session: Session,
        cfg: GeneratorConfig,
        *,
        model_path: str,
        adapters: AdapterCapacity | None = None,
        pushed: bool = False,
        cluster: ClusterConfig,
        failures: GenerationFailureConfig,
        watchdog: Watchdog,
        permits: int = 64,
        span: Span = no_span,
        wanted: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._cfg, self._failures, self._cluster = cfg, failures, cluster
        self._model_path, self._adapters = model_path, adapters
        self._signal = Signal()
        self._budget = Budget(
            failures.failures_in_a_row, of="failures", field="failures.failures_in_a_row"
        )
        self._generators: dict[str, RestartableGenerator] = {}
        self._seats: dict[str, Seat] = {}
        names = [generator_name(index) for index in range(cfg.num)]
        self.fleet = Fleet(names, missed_until_dead=failures.missed_pings)
        self._dispatcher = Dispatcher(
            self.fleet, self._generators, signal=self._signal, permits=permits, span=span
        )
        self.supervisor = Supervisor(
            self.fleet,
            self._generators,
            seats=self._seats,
            spawn=GeneratorFactory(
                session,
                cfg,
                model_path=model_path,
                adapters=adapters,
                blank=pushed and adapters is None,
                call_timeout_s=cluster.call_timeout_s,
                ping_timeout_s=failures.ping_timeout_s,
            ),
            dispatcher=self._dispatcher,
            signal=self._signal,
            failures=failures,
            budget=self._budget,
            watchdog=watchdog,
            wanted=wanted,
        )

    def collector(
        self,
        judges: Sequence[GroupJudge],
        *,
        combination: Combination,
        purpose: str,
        on_verifier_error: OnVerifierError = OnVerifierError.sample,
        interruption: Interruption | None = None,
        finished: Callable[[str], None] = lambda what: None,
    ) -> Collector:
        """Return what samples groups and has them judged; ``Collector`` has the arguments."""
        return Collector(
            self._dispatcher,
            judges=judges,
            combination=combination,
            purpose=purpose,
            on_verifier_error=on_verifier_error,
            failures=self._failures,
            budget=self._budget,
            interruption=interruption,
            finished=finished,
        )

    def bus(
        self,
        source: WeightSource,
        *,
        trainer: TrainerConfig,
        weights: WeightsConfig,
        probe: Sequence[Sequence[int]],
        trained: Sequence[TrainedGroup] = (),
    ) -> WeightBus:
        """Return the bus from ``source`` to the fleet.

        Args:
            source: the trainer's sending end.
            trainer: its options.
            weights: the bus's.
            probe: what both sides score.
            trained: groups that take turns with engines which sleep.
        """
        # An adapter's base stays what the engines have read.
        compares = shows_kernels(self._cfg.backend) and self._adapters is None
        both = {self._cfg.dtype, generator_dtype(trainer)}
        exact = both == {GeneratorDtype.float32} and not self._cfg.is_quantized
        assert self._cfg.setup_timeout_s is not None, "resolved_generator comes first"
        size_bytes = payload_bytes(
            model_shape(self._model_path),
            value_bytes=resolve_dtype(trainer.dtype).itemsize,
            adapters=self._adapters,
        )
        bus = WeightBus(
            source,
            fleet=self.fleet,
            receivers=self._generators,
            seats=self._seats,
            probe=probe,
            cfg=BusConfig(
                exact=exact,
                quantized=self._cfg.is_quantized,
                max_diff=weights.probe_max_diff,
                timeout_s=phase_deadline_s(weights.timeout_s, size_bytes),
                busy_s=self._cluster.call_timeout_s,
                boot_timeout_s=2 * self._cfg.setup_timeout_s,
                compare_every=weights.compare_every if compares else None,
            ),
            changed=self._signal.wait,
            leave=partial(sleep_all, *trained) if self._cfg.sleeps else None,
        )
        for group in trained if self._cfg.sleeps else ():
            group.comes = bus.rest
        return bus


def generation_of(
    run: Run,
    cfg: Any,
    generator: GeneratorConfig,
    *,
    model_path: str,
    adapters: AdapterCapacity | None = None,
    group_size: int,
) -> Generation:
    """Return the generators of a run, whose number ``rlpost scale`` can change.

    A run pushes its policy before it asks them anything.

    Args:
        run: whose they are.
        cfg: options of its stage: cluster and failures.
        generator: the engines', resolved.
        model_path: what they load.
        adapters: room for the adapters that are pushed; None: whole models are, or nothing.
        group_size: responses per prompt.
    """
    assert run.session is not None
    return Generation(
        run.session,
        generator,
        model_path=model_path,
        adapters=adapters,
        pushed=True,
        cluster=cfg.cluster,
        failures=cfg.failures,
        watchdog=run.watchdog,
        permits=groups_at_once(generator, group_size=group_size),
        span=lambda lane, name, start_s, end_s: run.tracker.span(
            lane, name, start_s=start_s, end_s=end_s
        ),
        wanted=requested_generators(run.directory.scale_request),
    )


def generators_role(
    cfg: GeneratorConfig,
    *,
    model_path: str,
    device: Device,
    adapters: AdapterCapacity | None = None,
    pushed: bool = True,
) -> Role:
    """Return the engines, which a ``Generation`` of the same arguments spawns."""
    names = [generator_name(index) for index in range(cfg.num)]
    gpus = cfg.tensor_parallel_size if device is Device.cuda else 0
    return Role(
        name="generators",
        processes=counted(cfg.num, "generator"),
        actors=tuple(ActorSpec(name=name, role="generator", num_gpus=gpus) for name in names),
        memory=partial(_memory, names, cfg, model_path, adapters, pushed),
        notes=(in_words(cfg),),
    )


def pushed_pages(
    model_path: str, trainer: TrainerConfig, adapters: AdapterCapacity | None
) -> dict[str, float]:
    """Return the pages that pushes to such generators take on the host of the trainer's rank 0."""
    itemsize = resolve_dtype(trainer.dtype).itemsize
    return sender_pages(model_shape(model_path), value_bytes=itemsize, adapters=adapters)


def _memory(
    names: Sequence[str],
    cfg: GeneratorConfig,
    model_path: str,
    adapters: AdapterCapacity | None,
    pushed: bool,
    work: Workload,
) -> list[Footprint]:
    footprint = partial(generator_footprint, adapters=adapters, pushed=pushed)
    if cfg.backend is Backend.sglang:
        footprint = partial(server_footprint)
    needs = [
        each
        for name in names
        for each in footprint(
            name,
            model_shape(model_path),
            cfg,
            value_bytes=4 if cfg.dtype is GeneratorDtype.float32 else 2,
            gpu_bytes=work.gpu_bytes,
        )
    ]
    # What they leave on a GPU is thrown away, and no copy of it is kept on the host.
    return [
        replace(each, turn="generation") if cfg.sleeps and each.on_gpu else each for each in needs
    ]


def generator_dtype(trainer: TrainerConfig) -> GeneratorDtype:
    """Return the dtype in which ``trainer`` computes."""
    return GeneratorDtype(str(resolve_dtype(trainer.dtype)).removeprefix("torch."))


def resolved_generator(
    cfg: GeneratorConfig, trainer: TrainerConfig, *, device: Device
) -> GeneratorConfig:
    """Fill in what depends on the device, and the trainer's dtype."""
    auto = cfg.dtype is GeneratorDtype.auto
    cfg = replace(cfg, dtype=generator_dtype(trainer) if auto else cfg.dtype)
    cores = len(os.sched_getaffinity(0))
    return with_device_defaults(cfg, on_gpu=device is Device.cuda, cores=cores)
