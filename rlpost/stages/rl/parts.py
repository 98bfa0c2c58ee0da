"""The parts of an RL run, as a step drives them.

Owns which of them belong to checkpoints. Refuses to own how they come to be (boot.py).
"""

from dataclasses import dataclass

from rlpost.algorithms.kl_controller import KLController
from rlpost.algorithms.policy_objective import PolicyObjective
from rlpost.cluster.reference import ReferenceGroup
from rlpost.cluster.reward import RewardGroup
from rlpost.cluster.supervision import Supervisor
from rlpost.cluster.trained import TrainedGroup
from rlpost.config.schema import RLConfig
from rlpost.control.fleet import Fleet
from rlpost.control.learning import Learning
from rlpost.control.ledger import Ledger
from rlpost.control.staleness import Staleness
from rlpost.data.cursor import PromptCursor, parse_uid
from rlpost.data.dataset import PromptDataset, heldout_source
from rlpost.data.sources.load import hub_id
from rlpost.models.origin import DataUsed
from rlpost.rollout.collector import Collector
from rlpost.rollout.producer import Producer
from rlpost.stages.export import export_model
from rlpost.stages.run import Run
from rlpost.stages.sampling.examiner import Examiner
from rlpost.stages.sampling.generation_state import GenerationState
from rlpost.types import Prompt
from rlpost.weights.bus import WeightBus


@dataclass(frozen=True, kw_only=True)
class RLParts:
    """Everything that a step drives."""

    cfg: RLConfig
    run: Run
    train_set: PromptDataset
    heldout_set: PromptDataset | None
    cursor: PromptCursor
    ledger: Ledger
    staleness: Staleness
    fleet: Fleet
    supervisor: Supervisor
    producer: Producer
    collector: Collector  # training: verifiers and reward models
    examiner: Examiner  # of held-out prompts: verifiers alone
    trainer: TrainedGroup
    critic: TrainedGroup | None
    reference: ReferenceGroup | None
    rewards: RewardGroup | None
    objective: PolicyObjective
    kl_controller: KLController
    learning: Learning
    bus: WeightBus

    def __post_init__(self) -> None:
        """Register what checkpoints hold beside the trained groups."""
        run = self.run
        for name in ("cursor", "ledger", "kl_controller", "learning", "rewards"):
            if (kept := getattr(self, name)) is not None:
                run.keep(name, kept)
        generation = GenerationState(self.producer, self.staleness, self.bus, find=self.find_prompt)
        run.keep("generation", generation)
        run.guard = lambda: self.supervisor.run(self.bus)
        run.describes += [self.producer.describe, self.fleet.describe]
        run.describes.append(lambda: f"ledger: {self.ledger.counts}")

    def find_prompt(self, uid: str) -> Prompt:
        """Return the training prompt of a uid."""
        return self.train_set.prompt(*parse_uid(uid))

    def data_used(self) -> list[DataUsed]:
        """Return what the run reads, for the model card."""
        cfg = self.cfg.data
        sources = {"train": (cfg.train, self.train_set)}
        if self.heldout_set is not None:
            sources["heldout"] = (heldout_source(cfg) or cfg.train, self.heldout_set)
        return [
            DataUsed(
                split=split,
                name=rows.name,
                source=source,
                num_rows=len(rows),
                fingerprint=rows.fingerprint,
                hub_id=hub_id(source),
            )
            for split, (source, rows) in sources.items()
        ]

    async def export(self) -> None:
        """Write ``export/``; see ``stages.export``."""
        await export_model(
            self.run,
            self.trainer,
            base=self.cfg.model.path,
            stage=self.run.stage,
            data=self.data_used(),
            system_prompt=self.cfg.data.system_prompt,
        )
