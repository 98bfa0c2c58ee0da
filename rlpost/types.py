"""The records that are passed between packages: small, frozen, without behaviour.

Owns the types exchanged by generators, verifiers, trainers and the driver. Refuses to own tensors
(training/packing/pack.py packs them) and any policy. Invariants: tokens travel as ids and are never
re-tokenised; spans partition the response with versions that never decrease; a verifier's failure
is ``reward=None``, never 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One prompt admitted to training or evaluation.

    Example: ``Prompt(uid="0:17", token_ids=(1, 5, 9), text="What is 2 * 3?",
    columns={"answer": "6"}, address="train.jsonl:18")``
    """

    uid: str  # "<epoch>:<row>": unique within a run
    token_ids: tuple[int, ...]  # chat template applied
    text: str  # for display: the last user message or the raw prompt
    messages: tuple[Mapping[str, Any], ...] | None = None  # None for a plain-string prompt
    # The messages that the chat template rendered, also for a string prompt, with its system
    # prompt; None where there is no template and ``text`` was encoded unchanged.
    conversation: tuple[Mapping[str, Any], ...] | None = None
    tools: tuple[Mapping[str, Any], ...] = ()  # function schemas in the prompt
    columns: Mapping[str, Any] = field(default_factory=dict)  # every other column of the row
    address: str = ""  # file:line of the row


@dataclass(frozen=True, kw_only=True)
class Span:
    """Response tokens ``[start, end)`` were sampled by weights ``version``."""

    start: int
    end: int
    version: int


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One verifier's judgement of one response.

    ``reward`` is None exactly when ``error`` says why: ``"timeout"``, an exception's
    summary, or ``"abstained"`` (the function returned None: left out of mean and std).

    Example: ``Verdict(verifier="math", reward=1.0, latency_s=0.004)``
    """

    verifier: str
    reward: float | None
    error: str | None = None
    latency_s: float = 0.0
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert (self.reward is None) == (self.error is not None), self


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """One sampled response with everything that training needs.

    ``rollout_logprobs[i]`` is the sampler's own log-probability (nats, after temperature)
    of ``response_ids[i]``; it includes the end-of-sequence token when there is one.
    """

    uid: str
    sample: int  # index in the group
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    rollout_logprobs: tuple[float, ...]
    spans: tuple[Span, ...]
    finish_reason: str  # "stop" | "length" | "abort"
    text: str  # decoded response without special tokens, up to the end of a stop string
    seed: int
    verdicts: tuple[Verdict, ...] = ()
    reward: float | None = None  # of all verdicts, by the rule of the run; None: not known
    num_stale: int = 0  # leading response tokens that are too old to train on
    written: tuple[int, int] = (0, 0)  # response tokens [start, end) that were not sampled

    def __post_init__(self) -> None:
        assert len(self.response_ids) == len(self.rollout_logprobs)

    @property
    def truncated(self) -> bool:
        return self.finish_reason == "length"

    @property
    def interrupted(self) -> bool:
        """Whether a phrase was written into the response (rollout/interruption.py)."""
        return self.written != (0, 0)


@dataclass(frozen=True, kw_only=True)
class Group:
    """All usable trajectories of one prompt."""

    prompt: Prompt
    trajectories: tuple[Trajectory, ...]

    @property
    def rewards(self) -> tuple[float | None, ...]:
        return tuple(t.reward for t in self.trajectories)


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How a response is sampled; the temperature also divides the training logits.

    A response ends with the token that completes a string of ``stop`` or is one of
    ``stop_token_ids``. That token was sampled, so it belongs to the response and is trained.
    """

    max_tokens: int = 256  # response tokens, end-of-sequence included
    temperature: float = 1.0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """``num_samples`` responses for one prompt; child ``k`` uses seed ``seed + k``."""

    key: str  # unique among the requests in progress: "<purpose>/<uid>"
    prompt: Prompt
    num_samples: int
    seed: int
    sampling: SamplingConfig
