"""Rules between an adapter and the trainer that trains it.

Owns them. Refuses to own rules of one kind's own options (in its file) and of the base
(adaptation.py). Imports neither torch nor peft.
"""

from typing import Any

from rlpost.errors import UserError
from rlpost.training.settings import TrainerConfig


def check_adapter(adapter: Any, trainer: TrainerConfig) -> None:
    """Refuse an adapter that cannot be trained at the ZeRO stage.

    Raises:
        UserError: names both options, the reason and the way out.
    """
    if trainer.zero_stage not in adapter.zero_stages:
        raise UserError(
            f"trainer.zero_stage must be one of {', '.join(map(str, adapter.zero_stages))} with "
            f"adapter={adapter.kind}, got {trainer.zero_stage}: {adapter.stage_reason}; an adapter "
            "leaves little to divide, set trainer.zero_stage=2"
        )
