"""The parts of an RL run, as a step drives them.

Owns which of them belong to checkpoints beside those of sampling. Refuses to own how they come to
be (boot.py).
"""

from dataclasses import dataclass

from rlpost.algorithms.kl_controller import KLController
from rlpost.algorithms.policy_objective import PolicyObjective
from rlpost.cluster.trained import TrainedGroup
from rlpost.config.schema import RLConfig
from rlpost.stages.export import export_model
from rlpost.stages.roles import CanScore
from rlpost.stages.run import Run
from rlpost.stages.sampling.parts import SamplingParts
from rlpost.training.packing.work import BY_TOKENS, ForwardWork


@dataclass(frozen=True, kw_only=True)
class RLParts:
    """Everything that a step drives."""

    cfg: RLConfig
    sampling: SamplingParts
    trainer: TrainedGroup
    critic: TrainedGroup | None
    reference: CanScore | None
    objective: PolicyObjective
    kl_controller: KLController
    work: ForwardWork = BY_TOKENS  # of the policy, which balances micro-batches and ranks

    def __post_init__(self) -> None:
        self.run.keep("kl_controller", self.kl_controller)

    @property
    def run(self) -> Run:
        return self.sampling.run

    async def export(self) -> None:
        """Write ``export/``; see ``stages.export``."""
        await export_model(
            self.run,
            self.trainer,
            base=self.cfg.model.path,
            stage=self.run.stage,
            data=self.sampling.data_used(self.cfg.data),
            system_prompt=self.cfg.data.system_prompt,
        )
