"""Whether a run still learns.

Owns the two rules that end a useless run: too many steps without an update, and verifiers that
fail too often. Refuses to own retries (failures.py) and warnings. Invariant: a step that updated
a model, or whose responses were all right, never counts against the run. Pure.
"""

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlpost.control.failures import FailureConfig
from rlpost.errors import NothingLearned, VerifiersFailing

WINDOW = 64  # responses, at least one step: the error rate is taken over the last of them


@dataclass(frozen=True, kw_only=True)
class StepOutcome:
    """The result of one step, as far as it decides whether the run learns.

    Example: ``StepOutcome(updated=False, solved=False, num_responses=96,
    failures={"timeout": 96})``
    """

    updated: bool  # a model took an optimizer step
    solved: bool  # every response of every group was right
    num_responses: int
    failures: Mapping[str, int]  # error -> responses that have no reward because of it


class Learning:
    """Counts steps without an update and responses without a verdict."""

    def __init__(self, config: FailureConfig) -> None:
        self._config = config
        self._updates = 0
        self._idle = 0  # steps in a row
        self._solved = False  # by the last step
        self._recent: deque[StepOutcome] = deque()

    def note(self, outcome: StepOutcome) -> None:
        """Record the outcome of a step."""
        self._remember(outcome)
        self._updates += outcome.updated
        self._solved = outcome.solved
        self._idle = 0 if outcome.updated or outcome.solved else self._idle + 1

    def check(self) -> None:
        """Check that the run should go on.

        Raises:
            VerifiersFailing: too many of the last responses could not be judged.
            NothingLearned: too many steps in a row without an update.
        """
        self._require_verdicts()
        limit = self._config.idle_steps
        if limit and self._idle >= limit:
            raise NothingLearned(
                f"no update in {self._idle} steps in a row (failures.idle_steps={limit}): "
                f"{self._why_idle()}"
            )

    def end(self) -> None:
        """Check that the run's model is worth exporting.

        Raises:
            NothingLearned: no step updated the model, and the last one was not all right.
        """
        if self.changed_nothing and not self._solved:
            raise NothingLearned(
                f"no step updated the model, so nothing is exported: {self._why_idle()}"
            )

    @property
    def changed_nothing(self) -> bool:
        """Whether the model is unchanged since the start of the run."""
        return self._updates == 0

    def state_dict(self) -> dict[str, int | bool]:
        return {"updates": self._updates, "solved": self._solved}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a saved state; idle steps count from 0, as their cause may be fixed."""
        self._updates, self._solved, self._idle = state["updates"], state["solved"], 0
        self._recent.clear()

    def _remember(self, outcome: StepOutcome) -> None:
        self._recent.append(outcome)
        while self._num_responses() - self._recent[0].num_responses >= WINDOW:
            self._recent.popleft()

    def _num_responses(self) -> int:
        return sum(each.num_responses for each in self._recent)

    def _require_verdicts(self) -> None:
        total = self._num_responses()
        failures = self._failures()
        limit = self._config.verifier_error_rate
        if total >= WINDOW and failures.total() > limit * total:
            raise VerifiersFailing(
                f"{failures.total()} of the last {total} responses could not be judged "
                f"(failures.verifier_error_rate={limit:g}); the most frequent reason: "
                f"{_most_frequent(failures)}. Fix the verifier or the rows, then run the same "
                "command again: the run is saved"
            )

    def _why_idle(self) -> str:
        failures = self._failures()
        if failures:
            return (
                f"{failures.total()} of the last {self._num_responses()} responses could not be "
                f"judged, most often because of {_most_frequent(failures)}; fix the verifier or "
                "the rows"
            )
        return (
            "the rewards within each group were equal, or selection.* kept no response. Look at "
            "the samples in report.html: is the answer in the form that the verifier looks for? "
            "Otherwise use easier prompts, a larger rollout.group_size, a reward with more "
            "values than 0 and 1, or a stronger model (failures.idle_steps=0 lets such runs go on)"
        )

    def _failures(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for outcome in self._recent:
            total.update(outcome.failures)
        return total


def _most_frequent(failures: Counter[str]) -> str:
    ((reason, count),) = failures.most_common(1)
    return f"{reason!r} ({count} times)"
