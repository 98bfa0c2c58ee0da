"""Interrupts responses that get too long with a phrase that asks for the answer.

Owns the two requests of an interrupted response and how they become one episode. Refuses
to own when they are sent (collector.py). Invariants: the tokens of the phrase are an
observation, in no span, so that they are neither trained on nor counted as sampled; the joined
response never has more tokens than an uninterrupted response may have.

ScaleRL (arXiv 2510.13786) interrupts long reasoning this way, instead of punishing it. Bias:
what follows the phrase is conditioned on it, so the policy learns to answer when told to, and
learns nothing about ending by itself: the reward of an interrupted response belongs to a
text that it would not have generated without the phrase. Evaluation is never interrupted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rlpost.bounds import number, option
from rlpost.errors import UserError
from rlpost.types import Episode, GenerationRequest, Trajectory


@dataclass(kw_only=True)
class InterruptionConfig:
    """A phrase written into training responses that have not ended after so many tokens."""

    after: int | None = number(
        None,
        at_least=1,
        at_most=10**7,
        help="response tokens after which the phrase is written; null: never",
    )
    phrase: str = option("", help='what is written, such as "\\nTime is up. The answer is"')

    def check(self, path: str) -> None:
        """Raises UserError: one field without the other."""
        if (self.after is None) != (self.phrase == ""):
            raise UserError(
                f"{path}.after={self.after} and {path}.phrase={self.phrase!r} belong together: "
                "the phrase is written into responses that have not ended after so many tokens; "
                "set both, or neither"
            )


@dataclass(frozen=True, kw_only=True)
class Interruption:
    """Example::

    interruption = Interruption(after=64, phrase=" Time is up:", token_ids=(3, 9, 11))
    whole = interruption.joined(first, continuation)
    """

    after: int  # response tokens
    phrase: str
    token_ids: tuple[int, ...]  # of the phrase

    @classmethod
    def of(
        cls,
        config: InterruptionConfig,
        *,
        encode: Callable[[str], Sequence[int]],
        max_tokens: int,
    ) -> "Interruption | None":
        """Return what a checked ``config`` asks for; ``encode`` adds no special tokens.

        Raises:
            UserError: the phrase leaves no token to answer with.
        """
        if config.after is None:
            return None
        token_ids = tuple(encode(config.phrase))
        if config.after + len(token_ids) >= max_tokens:
            raise UserError(
                f"rollout.interruption.after={config.after} and a phrase of {len(token_ids)} "
                f"tokens leave nothing of rollout.max_tokens={max_tokens} to answer with; raise "
                "max_tokens, interrupt earlier, or shorten the phrase"
            )
        return cls(after=config.after, phrase=config.phrase, token_ids=token_ids)

    def first(self, request: GenerationRequest) -> GenerationRequest:
        """Return the request for the part before the phrase."""
        return replace(request, sampling=replace(request.sampling, max_tokens=self.after))

    def continuation(
        self, request: GenerationRequest, first: Episode, *, seed: int
    ) -> GenerationRequest:
        """Return the request for the part of ``first`` after the phrase."""
        prompt, written = request.prompt, (*first.response_ids, *self.token_ids)
        left = request.sampling.max_tokens - len(written)
        return GenerationRequest(
            key=f"{request.key}/{first.sample}",
            prompt=replace(prompt, token_ids=(*prompt.token_ids, *written)),
            num_samples=1,
            seed=seed,
            sampling=replace(request.sampling, max_tokens=left),
        )

    def joined(self, first: Episode, continuation: Episode) -> Episode:
        """Return one response: ``first``, the phrase and ``continuation``, each one request."""
        (before,), (after,) = first.trajectories, continuation.trajectories
        shift = len(before.response_ids) + len(self.token_ids)
        later = (replace(s, start=s.start + shift, end=s.end + shift) for s in after.spans)
        whole = Trajectory(
            prompt_ids=before.prompt_ids,
            response_ids=(*before.response_ids, *self.token_ids, *after.response_ids),
            spans=(*before.spans, *later),
            rollout_logprobs=before.rollout_logprobs + after.rollout_logprobs,
        )
        return replace(
            first,
            trajectories=(whole,),
            finish_reason=continuation.finish_reason,
            text=first.text + self.phrase + continuation.text,
            interrupted=True,
        )
