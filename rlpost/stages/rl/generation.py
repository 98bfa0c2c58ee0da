"""What samples and judges: fleet, supervisor, dispatcher, and what they share.

Owns their assembly. Refuses to own when they run and what is trained.
"""

from collections.abc import Sequence

from rlpost.cluster.generators import GeneratorFactory
from rlpost.cluster.supervision import Supervisor, generator_name
from rlpost.cluster.trained import WeightSource
from rlpost.control.failures import Budget
from rlpost.control.fleet import Fleet
from rlpost.data.dataset import PromptDataset
from rlpost.rollout.collector import Collector, GroupJudge
from rlpost.rollout.dispatch import Dispatcher
from rlpost.rollout.interruption import Interruption
from rlpost.rollout.protocol import RestartableGenerator
from rlpost.rollout.signal import Signal
from rlpost.rollout.vllm_generator import GeneratorDtype
from rlpost.stages.rl.plan import RLPlan
from rlpost.stages.run import Run
from rlpost.stages.scale_request import requested_generators
from rlpost.training.precision import resolve_dtype
from rlpost.verifiers.combine import Combination
from rlpost.weights.bus import WeightBus
from rlpost.weights.protocol import BusConfig
from rlpost.weights.publisher import WeightsConfig


class Generation:
    """What samples and judges: fleet, supervisor, dispatcher, and what they share."""

    def __init__(self, plan: RLPlan, run: Run) -> None:
        cfg, session = plan.cfg, run.session
        assert session is not None
        self._plan, self._run = plan, run
        self._signal = Signal()
        self._budget = Budget(
            cfg.failures.failures_in_a_row, of="failures", field="failures.failures_in_a_row"
        )
        self._generators: dict[str, RestartableGenerator] = {}
        self._workers: dict[str, int] = {}
        names = [generator_name(index) for index in range(plan.generator.num)]
        self.fleet = Fleet(names, missed_until_dead=cfg.failures.missed_pings)
        groups_at_once = -(-2 * plan.generator.max_num_seqs // cfg.rollout.group_size)
        self._dispatcher = Dispatcher(
            self.fleet,
            self._generators,
            signal=self._signal,
            permits=groups_at_once,
            span=lambda lane, name, start_s, end_s: run.tracker.span(
                lane, name, start_s=start_s, end_s=end_s
            ),
        )
        self.supervisor = Supervisor(
            self.fleet,
            self._generators,
            workers=self._workers,
            spawn=GeneratorFactory(
                session,
                plan.generator,
                model_path=plan.model_path,
                call_timeout_s=cfg.cluster.call_timeout_s,
                ping_timeout_s=cfg.failures.ping_timeout_s,
            ),
            dispatcher=self._dispatcher,
            signal=self._signal,
            failures=cfg.failures,
            budget=self._budget,
            watchdog=run.watchdog,
            wanted=requested_generators(run.directory.scale_request),
        )

    def collector(
        self,
        judges: Sequence[GroupJudge],
        *,
        combination: Combination,
        purpose: str,
        interruption: Interruption | None = None,
    ) -> Collector:
        """Return what samples groups and has them judged by ``judges``."""
        cfg = self._plan.cfg
        return Collector(
            self._dispatcher,
            judges=judges,
            combination=combination,
            purpose=purpose,
            on_verifier_error=cfg.rollout.on_verifier_error,
            failures=cfg.failures,
            budget=self._budget,
            interruption=interruption,
            finished=self._run.progress,
        )

    def bus(self, source: WeightSource) -> WeightBus:
        """Return the bus from ``source`` to the fleet."""
        plan, weights = self._plan, self._plan.cfg.weights
        float32 = plan.generator.dtype is GeneratorDtype.float32
        trainer_float32 = str(resolve_dtype(plan.cfg.trainer.dtype)) == "torch.float32"
        return WeightBus(
            source,
            fleet=self.fleet,
            receivers=self._generators,
            workers=self._workers,
            probe=_probe(plan.train_set, weights),
            cfg=BusConfig(
                exact=float32 and trainer_float32,
                max_diff=weights.probe_max_diff,
                timeout_s=weights.timeout_s,
                boot_timeout_s=2 * plan.generator.setup_timeout_s,
            ),
            changed=self._signal.wait,
        )


def _probe(prompts: PromptDataset, cfg: WeightsConfig) -> list[list[int]]:
    """Take the ends of the first prompts.

    A prompt that is shorter is repeated: a probe compares a log-prob of each token but the
    first, so it needs at least two.
    """
    sequences = []
    for row in range(min(cfg.probe_sequences, len(prompts))):
        ids = prompts.prompt(0, row).token_ids
        repeats = -(-cfg.probe_tokens // len(ids)) if len(ids) < 2 else 1
        sequences.append(list(ids * repeats)[-cfg.probe_tokens :])
    return sequences
