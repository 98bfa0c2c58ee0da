"""The records that are passed between packages: small, frozen, without behaviour.

Owns the types exchanged by generators, verifiers, trainers and the driver. Refuses to own tensors
(training/packing/pack.py packs them) and any policy. Invariants: tokens travel as ids and are never
re-tokenised; spans cover exactly the tokens that were sampled, with versions that never decrease,
and every log-prob is one of a sampled token; a verifier's failure is ``reward=None``, never 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
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
    """Tokens ``[start, end)`` of a trajectory's response were sampled by weights ``version``."""

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
    """One token sequence that only ever grew at its end: a prompt, and what followed it.

    The spans cover the tokens that the policy sampled. What lies outside of them is an
    observation, such as a phrase that was written into the response: the policy read it, and
    it is neither trained on nor counted. ``rollout_logprobs`` has the sampler's own log-probability
    (nats, after temperature) of each sampled token, an end-of-sequence token included.

    Example: ``Trajectory(prompt_ids=(5, 9), response_ids=(7, 90, 91, 2), spans=(Span(start=0,
    end=1, version=3), Span(start=3, end=4, version=4)), rollout_logprobs=(-0.2, -1.5))``
    """

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    spans: tuple[Span, ...]
    rollout_logprobs: tuple[float, ...]

    def __post_init__(self) -> None:
        end, version = 0, 0
        for span in self.spans:
            assert end <= span.start < span.end and version <= span.version, self.spans
            end, version = span.end, span.version
        assert end <= len(self.response_ids), (self.spans, len(self.response_ids))
        assert self.num_sampled == len(self.rollout_logprobs), self.spans

    @property
    def num_sampled(self) -> int:
        return sum(span.end - span.start for span in self.spans)


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One attempt at a prompt: what is judged, and what a reward and an advantage belong to.

    Its trajectories share them, and each sampled token is in exactly one trajectory. A response
    sampled in one request is an episode of one trajectory.
    """

    uid: str  # of the prompt
    sample: int  # index in the group
    trajectories: tuple[Trajectory, ...]
    finish_reason: str  # "stop" | "length"
    text: str  # decoded response without special tokens, up to the end of a stop string
    seed: int
    verdicts: tuple[Verdict, ...] = ()
    reward: float | None = None  # of all verdicts, by the rule of the run; None: not known
    interrupted: bool = False  # a phrase was written into it (rollout/interruption.py)

    @property
    def truncated(self) -> bool:
        return self.finish_reason == "length"

    @property
    def num_sampled(self) -> int:
        return sum(trajectory.num_sampled for trajectory in self.trajectories)

    @property
    def response_ids(self) -> tuple[int, ...]:
        """What follows the prompts of its trajectories, observations included."""
        return tuple(chain.from_iterable(each.response_ids for each in self.trajectories))

    @property
    def versions(self) -> tuple[int, ...]:
        """The versions of weights that sampled it, ascending."""
        return tuple(sorted({span.version for t in self.trajectories for span in t.spans}))


@dataclass(frozen=True, kw_only=True)
class Group:
    """All usable episodes of one prompt."""

    prompt: Prompt
    episodes: tuple[Episode, ...]

    @property
    def rewards(self) -> tuple[float | None, ...]:
        return tuple(episode.reward for episode in self.episodes)


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
