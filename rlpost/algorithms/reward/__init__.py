"""Losses of reward models: of pairs, and of the steps of solutions."""

from rlpost.algorithms.reward.losses import BradleyTerryConfig, StepConfig, reward_losses
from rlpost.algorithms.reward.objective import RewardObjective, StepObjective

__all__ = ["BradleyTerryConfig", "RewardObjective", "StepConfig", "StepObjective", "reward_losses"]
