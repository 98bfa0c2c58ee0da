"""How a critic differs from the policy it values.

Owns the critic's own options. Everything else (dtype, ZeRO stage, ranks, micro-batches,
clipping of the gradient) is the policy trainer's: both consume the same batches in step.
Imports no torch, like settings.py.
"""

from dataclasses import dataclass, replace

from rlpost.bounds import number, option
from rlpost.errors import UserError
from rlpost.training.settings import TrainerConfig


@dataclass(kw_only=True)
class CriticConfig:
    """The value model of PPO; its loss has a config of its own."""

    init_from: str | None = option(
        None, help="model to start from: a causal LM or a reward model; null: the policy's"
    )
    lr: float = number(1e-5, above=0, at_most=1, hint="1e-5 is usual", help="learning rate")
    warmup_steps: int = number(
        0, at_least=0, at_most=10**8, help="first steps, over which the learning rate rises from 0"
    )
    warmup_only_steps: int = number(
        0,
        at_least=0,
        at_most=10**8,
        help="first steps that train the critic and leave the policy alone",
    )

    def check(self, path: str) -> None:
        """Raises UserError: ``init_from`` is blank."""
        if self.init_from is not None and not self.init_from.strip():
            raise UserError(
                f"{path}.init_from must name a model, got {self.init_from!r}; null takes the "
                "policy's model"
            )

    def trainer(self, policy: TrainerConfig, path: str = "critic") -> TrainerConfig:
        """Return the critic's trainer options: ``policy`` with the critic's learning rate.

        Raises:
            UserError: a warm-up leaves no step for what comes after it.
        """
        for name, after in (
            ("warmup_steps", "the full learning rate would never be reached"),
            ("warmup_only_steps", "the policy would never be trained"),
        ):
            if getattr(self, name) >= policy.steps:
                raise UserError(
                    f"{path}.{name} must be below trainer.steps={policy.steps}, got "
                    f"{getattr(self, name)}; {after}"
                )
        return replace(policy, lr=self.lr, warmup_steps=self.warmup_steps)
