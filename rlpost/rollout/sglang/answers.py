"""What SGLang's answers say, in our words.

Owns the reading of ``/generate`` (managers/tokenizer_manager.py of 0.5.23). Invariant: an answer
whose parts contradict each other is a failure and never a response. Pure.
"""

from collections.abc import Sequence
from typing import Any

from rlpost.errors import NoAnswer
from rlpost.rollout.sampled import Sampled, VersionSpan


def sampled_in(answer: Any, stops: Sequence[str]) -> Sampled:
    """Return one response.

    Args:
        answer: its JSON.
        stops: strings that may have ended it.

    Raises:
        NoAnswer: tokens and log-probs do not belong together, or nobody says what sampled them.
    """
    meta = answer["meta_info"]
    token_ids = tuple(answer["output_ids"])
    pairs = [(token, logprob) for logprob, token, *_ in meta.get("output_token_logprobs", ())]
    if tuple(token for token, _ in pairs) != token_ids:
        raise NoAnswer(
            f"SGLang gave {len(token_ids)} tokens and log-probs of {len(pairs)} that are not those"
        )
    spans = meta.get("weight_versions", ())
    if token_ids and not spans:
        raise NoAnswer("SGLang gave tokens and not the version of the weights that sampled them")
    reason = meta["finish_reason"]
    return Sampled(
        token_ids=token_ids,
        logprobs=tuple(float(logprob) for _, logprob in pairs),
        text=_text(answer["text"], reason, stops),
        finish_reason=str(reason["type"]),
        weight_versions=tuple(
            VersionSpan(version=each["version"], start=each["start"], end=each["end"])
            for each in spans
        ),
    )


def _text(text: str, reason: Any, stops: Sequence[str]) -> str:
    """Cut off what the last token has after a stop string; SGLang keeps all of it or nothing."""
    matched = reason.get("matched")
    if not isinstance(matched, str) or matched not in stops or matched not in text:
        return text
    return text[: text.index(matched) + len(matched)]


def scores_in(answer: Any, token_ids: Sequence[int]) -> list[float]:
    """Return the log-prob of every token of a prompt after its first.

    Raises:
        NoAnswer: they are not those of the prompt.
    """
    pairs = answer["meta_info"].get("input_token_logprobs", ())
    if [token for _, token, *_ in pairs] != list(token_ids):
        raise NoAnswer("SGLang gave log-probs of another prompt")
    return [float(logprob) for logprob, *_ in pairs[1:]]
