"""The form in which an inference engine gives a response, whichever engine it is."""

from dataclasses import dataclass

ABORTED = "abort"  # how a response ends whose request was ended before it was complete


@dataclass(frozen=True, kw_only=True)
class VersionSpan:
    """Tokens ``[start, end)`` of a response, and how the engine names what sampled them."""

    version: str  # "default": what it read from disk
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """One response as an engine gives it.

    Example: ``Sampled(token_ids=(7, 2), logprobs=(-0.4, -1.1), text="A", finish_reason="stop",
    weight_versions=(VersionSpan(version="3", start=0, end=2),))``
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]  # the sampler's own, in nats, after temperature
    text: str
    finish_reason: str  # "stop", "length" or ABORTED
    weight_versions: tuple[VersionSpan, ...]
