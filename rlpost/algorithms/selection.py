"""Which sampled responses are kept for training: rejection sampling.

Owns the rule. Refuses to own rewards, sampling and the dataset that is written. Pure; no
torch. Invariants: a response without a reward is never kept; among equal rewards the earlier
sample wins, so the same input keeps the same responses.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rlpost.bounds import number, option
from rlpost.errors import UserError


@dataclass(kw_only=True)
class SelectionConfig:
    """What is kept of a prompt's responses; everything by default. The rules combine.

    Threshold: ``min_reward=1``. Best of n: ``best=1``. Top k: ``best=k``.
    """

    min_reward: float | None = number(
        None,
        at_least=-1e9,
        at_most=1e9,
        help="keep only responses of at least this reward; null: all",
    )
    best: int | None = number(
        None,
        at_least=1,
        at_most=10**4,
        hint="null keeps every response that the other rules keep",
        help="keep at most so many per prompt, those of the largest reward; null: all",
    )
    dedupe: bool = option(False, help="keep responses of the same tokens once")
    drop_solved: bool = option(
        False, help="keep nothing of a prompt whose every response is kept so far"
    )

    @property
    def keeps_everything(self) -> bool:
        return self == SelectionConfig()

    def check(self, path: str) -> None:
        """Raises UserError: a field has no effect."""
        if self.drop_solved and self.min_reward is None:
            raise UserError(
                f"{path}.drop_solved=true needs {path}.min_reward to say what solved means; set "
                "it, to 1 for a verifier of right and wrong"
            )


def select(
    rewards: Sequence[float | None],
    *,
    response_ids: Sequence[Sequence[int]],
    config: SelectionConfig,
) -> list[int]:
    """Return the indices of the responses of one prompt to keep, ascending.

    Rejection-sampling fine-tuning: arXiv 2308.01825; best of n: arXiv 2204.05862.
    """
    judged = {i: reward for i, reward in enumerate(rewards) if reward is not None}
    kept = list(judged)
    if config.min_reward is not None:
        kept = [i for i, reward in judged.items() if reward >= config.min_reward]
        if config.drop_solved and len(kept) == len(judged):
            return []
    if config.dedupe:
        first: dict[tuple[int, ...], int] = {}
        for i in kept:
            first.setdefault(tuple(response_ids[i]), i)
        kept = list(first.values())
    if config.best is not None:
        kept = sorted(kept, key=lambda i: -judged[i])[: config.best]
    return sorted(kept)
