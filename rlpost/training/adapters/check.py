"""Rules between an adapter and the trainer that trains it.

Owns them. Refuses to own rules of one kind's own options (in its file) and of the base
(adaptation.py). Imports neither torch nor peft.
"""

from typing import Any

from rlpost.errors import UserError
from rlpost.training.settings import TrainerConfig


def check_adapter(adapter: Any, trainer: TrainerConfig) -> None:
    """Refuse an adapter that cannot be trained, or measured, with these options of the trainer.

    Raises:
        UserError: names both options, the reason and the way out.
    """
    every = getattr(adapter, "diagnose_every", 0)
    if every and trainer.zero_stage == 3:
        raise UserError(
            f"adapter.diagnose_every={every} needs whole weights between two passes, which "
            "trainer.zero_stage=3 does not keep; set trainer.zero_stage=2, or leave it out"
        )
    if every and trainer.sequence_parallel_size > 1:
        raise UserError(
            f"adapter.diagnose_every={every} measures on one rank with whole sequences, which "
            f"trainer.sequence_parallel_size={trainer.sequence_parallel_size} divides; set it to "
            "1, or leave adapter.diagnose_every out"
        )
    steps: int | None = trainer.steps  # None where epochs are counted
    if steps is not None and every > steps:
        raise UserError(
            f"adapter.diagnose_every must be at most trainer.steps={steps}, got {every}: "
            "nothing would be measured; lower it, or leave it out"
        )
    if trainer.zero_stage not in adapter.zero_stages:
        raise UserError(
            f"trainer.zero_stage must be one of {', '.join(map(str, adapter.zero_stages))} with "
            f"adapter={adapter.kind}, got {trainer.zero_stage}: {adapter.stage_reason}; an adapter "
            "leaves little to divide, set trainer.zero_stage=2"
        )
