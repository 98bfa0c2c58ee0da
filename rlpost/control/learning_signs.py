"""Signs in a run's own metrics that it does not learn, each with what to do about it.

Owns the rules and their texts, but for those of files of their own. Refuses to own what a sign is
(sign.py), when it is shown (tracking/) and what ends a run. Invariants: a sign describes the latest
steps, so it goes away when they get better; groups that are all solved after the run has learned
give no sign; each cause has one sign. Pure.
"""

import re
from collections import deque
from collections.abc import Iterable

from rlpost.control.chosen_fall import ChosenFall
from rlpost.control.length_bias import LengthBias
from rlpost.control.result_metrics import kind_of
from rlpost.control.sign import Metrics, Sign, SignKind
from rlpost.control.sign import number as _number
from rlpost.control.sign import steps_of as _steps
from rlpost.control.small_adapter import SmallAdapter

PATIENCE = 2  # steps in a row, because equal rewards in a single step may be chance
_LOSS = re.compile(r"\w+/loss")  # what a stage that learns from a data set minimises
_ALL = 0.999  # a share from which on all responses count as affected


class LearningSigns:
    """Reads rows of metrics in the order of steps; ``now`` says what the latest ones show.

    Example::

        signs = LearningSigns()
        signs.observe({"step": 1, "critic/score/max": 0.0, ...})
        for sign in signs.now():
            print(sign)
    """

    def __init__(self, *, patience: int = PATIENCE) -> None:
        """``patience``: the steps that must agree, except for verdicts that failed."""
        self._latest: deque[Metrics] = deque(maxlen=max(1, patience))
        self._rewarded = self._learned = self._heldout = self._supervised = False
        self._comparisons = (ChosenFall(), LengthBias(), SmallAdapter())

    def observe(self, row: Metrics) -> None:
        """Read a row; a row without responses only tells whether there is held-out data."""
        self._heldout = self._heldout or any(
            name.startswith("val-core/") or kind_of(name) is not None for name in row
        )
        self._supervised = self._supervised or any(_LOSS.fullmatch(name) for name in row)
        for each in self._comparisons:
            each.observe(row)
        if _number(row, "response_length/mean") is None or not row["step"]:
            return
        self._latest.append(row)
        self._rewarded = self._rewarded or (_number(row, "critic/score/max") or 0.0) > 0
        self._learned = self._learned or _teaches(row)

    def now(self) -> list[Sign]:
        """Return the signs of the latest steps, the most serious first."""
        found = [self._unjudged()] if self._latest else []
        if len(self._latest) == self._latest.maxlen:
            found += [self._rewards(), self._truncated()]
        found += [each.now() for each in self._comparisons]
        if self._latest or self._supervised:
            found.append(self._no_heldout())
        return [sign for sign in found if sign is not None]

    def _unjudged(self) -> Sign | None:
        row = self._latest[-1]
        failed = sorted(name for name in _verifiers(row) if _failed_share(row, name) >= _ALL)
        # Of samples that a teacher alone reads nobody has a verdict, and nobody misses it.
        unscored = _number(row, "critic/score/mean") is None and bool(_verifiers(row))
        if not failed and not unscored:
            return None
        who = f"the verifier {', '.join(failed)}" if failed else "the verifier"
        what = "failed on" if failed else "gave no reward to"
        return Sign(
            kind=SignKind.unjudged,
            finding=f"{who} {what} every response of step {row['step']}",
            advice=f"The verdicts in rollouts/step_{row['step']:06d}.jsonl say why; a response "
            "without a verdict is left out of training",
        )

    def _rewards(self) -> Sign | None:
        rows = list(self._latest)
        values = {_number(row, "critic/score/max") for row in rows}
        if None in values or any(map(_teaches, rows)):
            return None
        if not self._rewarded:
            return self._no_reward(rows)
        solved = min(_number(row, "group/all_pass_frac") or 0.0 for row in rows)
        if self._learned and solved >= 0.5:
            return None
        if solved >= _ALL:
            return Sign(
                kind=SignKind.solved,
                finding=f"every response of {_steps(rows)} got the full reward from the start",
                advice="There is nothing left to learn from these prompts: use harder ones, or a "
                "stricter verifier",
            )
        return self._equal(rows)

    def _no_reward(self, rows: list[Metrics]) -> Sign:
        return Sign(
            kind=SignKind.no_reward,
            finding=f"no response of {_steps(rows)} got a reward above 0",
            advice=f"Read some in rollouts/step_{rows[-1]['step']:06d}.jsonl. If they are right, "
            "the verifier does not see the answer in them; if they are cut, raise "
            "rollout.max_tokens; if they are wrong, use easier prompts, a larger "
            "rollout.group_size, a reward with values between 0 and 1, or a stronger model",
        )

    def _equal(self, rows: list[Metrics]) -> Sign:
        one_value = all(_flat(row, "critic/score") for row in rows)
        where = "every response" if one_value else "all responses to the same prompt"
        return Sign(
            kind=SignKind.equal,
            finding=f"{where} of {_steps(rows)} got the same reward",
            advice="Rewards must differ between the responses to one prompt: check that the "
            "reward depends on the response, raise rollout.group_size or rollout.temperature, or "
            "use prompts that the model solves sometimes",
        )

    def _truncated(self) -> Sign | None:
        rows = list(self._latest)
        if any((_number(row, "response_length/clip_ratio") or 0.0) < _ALL for row in rows):
            return None
        return Sign(
            kind=SignKind.truncated,
            finding=f"every response of {_steps(rows)} was cut at rollout.max_tokens",
            advice="An answer at the end is never reached, and the model does not learn to stop: "
            "raise rollout.max_tokens, ask for shorter answers in the prompt, or use a model that "
            "follows its chat template",
        )

    def _no_heldout(self) -> Sign | None:
        if self._heldout:
            return None
        return Sign(
            kind=SignKind.no_heldout,
            finding="there is no held-out data, so the curves cannot tell learning from memorising",
            advice="Set data.heldout=FILE, with rows that data.train does not have",
        )


def signs_of(rows: Iterable[Metrics], *, patience: int = PATIENCE) -> list[Sign]:
    """Return the signs at the end of ``rows``."""
    signs = LearningSigns(patience=patience)
    for row in rows:
        signs.observe(row)
    return signs.now()


def _teaches(row: Metrics) -> bool:
    """Whether the rewards of the step differ in a way that gives a gradient."""
    if _number(row, "critic/score/max") is None or _flat(row, "critic/score"):
        return False
    equal_groups = _number(row, "group/zero_std_frac")
    if equal_groups is None or equal_groups < 1:
        return True
    # Other estimators compare rewards of different groups, so they still have advantages.
    skipped = _number(row, "training/skipped") == 1
    no_advantage = _flat(row, "critic/advantages") and _number(row, "critic/advantages/max") == 0
    return not (skipped or no_advantage)


def _flat(row: Metrics, name: str) -> bool:
    low, high = _number(row, f"{name}/min"), _number(row, f"{name}/max")
    return low is not None and low == high


def _verifiers(row: Metrics) -> set[str]:
    start, end = "verifier/", "/error_rate"
    return {
        name[len(start) : -len(end)]
        for name in row
        if name.startswith(start) and name.endswith(end)
    }


def _failed_share(row: Metrics, verifier: str) -> float:
    rates = (_number(row, f"verifier/{verifier}/{kind}_rate") for kind in ("error", "timeout"))
    return sum(rate or 0.0 for rate in rates)
