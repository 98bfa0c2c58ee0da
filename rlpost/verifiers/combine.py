"""The verdicts on a response -> its reward, by the rule in ``rewards.rule``.

Owns the rules. Refuses to know who judged: verifiers and reward models are judges alike, with a
name and a weight; which combinations of them make sense is checked in config/judges.py.
Invariants: a judge of weight 0 only measures; a verdict that failed makes the reward None, never
a number, wherever the rule would have needed it; a reward is finite; the order in which verdicts
arrive changes nothing.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from rlpost.bounds import number, option
from rlpost.types import Verdict
from rlpost.verifiers.base import ABSTAINED

MAX_REWARD = 1e30  # of one judge: weighted sums of such numbers stay far from overflow


class Rule(Enum):
    """How the rewards of several judges become one; ``docs/verifiers.md`` has examples."""

    sum = "sum"  # weight times reward, added up
    product = "product"  # rewards of 0 or more, multiplied
    gate = "gate"  # the sum of the other judges where every gate passes, else the floor
    first = "first"  # weight times reward of the first judge that does not abstain


@dataclass(kw_only=True)
class RewardsConfig:
    """How the judges of a response, verifiers and reward models, make its reward."""

    rule: Rule = option(Rule.sum, help="how the rewards of several judges become one")
    gates: list[str] = option([], help="judges that a response must pass, with rule=gate")
    threshold: float = number(
        1.0,
        at_least=-1e6,
        at_most=1e6,
        hint="1.0 is usual",
        help="reward from which on a response passes a gate",
    )
    floor: float = number(
        0.0,
        at_least=-1e6,
        at_most=1e6,
        hint="0.0 is usual",
        help="reward of a response that a gate stops",
    )


@dataclass(frozen=True, kw_only=True)
class Combination:
    """The judges of a run and the rule that combines them.

    Example::

        combination = Combination(weights={"math": 1.0, "short": 0.2})
        verdicts, reward = combination.judged(verdicts)
    """

    weights: Mapping[str, float]  # judge -> factor, in the order that ``Rule.first`` follows
    rewards: RewardsConfig = field(default_factory=RewardsConfig)

    @property
    def deciding(self) -> frozenset[str]:
        """Judges whose rewards become the reward: those with a weight that are no gates."""
        return frozenset(
            name for name, weight in self.weights.items() if weight and not self._is_gate(name)
        )

    def judged(self, verdicts: Sequence[Verdict]) -> tuple[tuple[Verdict, ...], float | None]:
        """Return the verdicts, with those that the rule cannot use as failures, and the reward."""
        usable = tuple(map(self._usable, verdicts))
        return usable, self.combine(usable)

    def combine(self, verdicts: Sequence[Verdict]) -> float | None:
        """Return the reward of one response, None where it has none.

        Abstentions are left out. A failed verdict of a judge with a weight leaves no reward,
        also where the others alone would decide, as a 0 in a product or a gate that stops: else
        exactly the low rewards of the responses that a judge fails on would be trained on, and
        its failures would teach. With ``first``, judges behind the one that decides are not
        needed, whatever they say.

        Args:
            verdicts: in any order, at most one per judge. A missing one counts as failed; those
                of judges that the run does not have are ignored.
        """
        given = {verdict.verifier: verdict for verdict in verdicts}
        rewards = {
            name: given[name].reward if name in given else None
            for name, weight in self.weights.items()
            if weight and not (name in given and given[name].error == ABSTAINED)
        }
        if self.rewards.rule is Rule.first:
            rewards = dict(list(rewards.items())[:1])
        known = {name: reward for name, reward in rewards.items() if reward is not None}
        if len(known) < len(rewards):
            return None
        if any(reward < self.rewards.threshold for n, reward in known.items() if self._is_gate(n)):
            return self.rewards.floor
        left = {name: reward for name, reward in known.items() if not self._is_gate(name)}
        if not left:
            return None
        if self.rewards.rule is Rule.product:
            return _finite(math.prod(left.values()))
        total = 0.0
        for name, reward in left.items():  # one order of addition, so that equal verdicts tie
            total += self.weights[name] * reward
        return _finite(total)

    def measuring(self, verifiers: Collection[str]) -> "Combination":
        """Return what measures responses by the verifiers alone, without reward models.

        Several verifiers count by the run's rule. A single one counts as it is, whatever its
        weight, and so does each of several that only measure (all weights 0). Where the rule
        needs a reward model, they are added up.
        """
        weights = {name: self.weights[name] for name in verifiers}
        if len(weights) == 1 or not any(weights.values()):
            return Combination(weights=dict.fromkeys(weights, 1.0))
        gates = [name for name in self.rewards.gates if name in weights]
        alone = Combination(weights=weights, rewards=replace(self.rewards, gates=gates))
        needs_model = self.rewards.rule is Rule.gate and not (gates and alone.deciding)
        return Combination(weights=weights) if needs_model else alone

    def _is_gate(self, name: str) -> bool:
        return self.rewards.rule is Rule.gate and name in self.rewards.gates

    def _usable(self, verdict: Verdict) -> Verdict:
        """Return the verdict, or a failed one where the rule cannot use its reward."""
        reward, error = verdict.reward, None
        if reward is None or not self.weights.get(verdict.verifier):
            return verdict
        if not abs(reward) <= MAX_REWARD:
            error = f"the reward {reward:g} is not within {MAX_REWARD:g} of 0"
        elif reward < 0 and self.rewards.rule is Rule.product:
            error = f"rewards.rule=product takes rewards of 0 or more, got {reward:g}"
        return verdict if error is None else replace(verdict, reward=None, error=error)


def _finite(reward: float) -> float | None:
    return reward if math.isfinite(reward) else None
