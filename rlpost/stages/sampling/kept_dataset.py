"""``dataset/*.jsonl``: sampled responses that were kept, with provenance.

Owns the format, which is a prompt-completion dataset like any other: two strings, or two lists
of messages where the prompt is more than one string. Refuses to own the rule
(algorithms/selection.py). Invariants: a file is complete or absent; whoever reads it as
``data.train`` gets the tokens of the prompt that was sampled from, its system prompt and tools
included; a response without text is no row, because every reader of rows would refuse it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlpost.checkpoint.state import write_text
from rlpost.types import Episode, Group, Prompt


def write_kept(root: Path, step: int, groups: Sequence[Group], *, model: str) -> int:
    """Write one line per episode, replacing an earlier file; returns how many.

    Args:
        root: the run's ``dataset/``.
        step: the round, from 1.
        groups: only what was kept.
        model: what the policy started from; ``version`` says how far it was trained.
    """
    episodes = [(g.prompt, e) for g in groups for e in g.episodes if says_something(e.text)]
    records = [_record(prompt, episode, model) for prompt, episode in episodes]
    write_dataset(root / f"step_{step:06d}.jsonl", records)
    return len(records)


def says_something(response: str) -> bool:
    """Whether a response can be a row."""
    return bool(response.strip())


def write_dataset(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write a file of records, replacing an earlier one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records)
    write_text(path, lines)


def kept_record(
    prompt: Prompt,
    response: str,
    *,
    sample: int,
    seed: int,
    model: str,
    version: int,
    reward: float | None,
    verdicts: Mapping[str, float | None],
) -> dict[str, Any]:
    """Return the row of a response: the dialogue, and where it comes from.

    Args:
        prompt: what was answered.
        response: the text.
        sample: its number among those of the prompt.
        seed: of its sampling.
        model: what sampled it.
        version: how far that was trained since.
        reward: what it earned.
        verdicts: verifier -> reward.
    """
    return {
        **_dialogue(prompt, response),
        "provenance": {
            "source": prompt.address,
            "uid": prompt.uid,
            "sample": sample,
            "model": model,
            "version": version,
            "seed": seed,
            "reward": reward,
            "verdicts": dict(verdicts),
        },
    }


def _record(prompt: Prompt, episode: Episode, model: str) -> dict[str, Any]:
    return kept_record(
        prompt,
        episode.text,
        sample=episode.sample,
        seed=episode.seed,
        model=model,
        version=max(episode.versions, default=0),
        reward=episode.reward,
        verdicts={v.verifier: v.reward for v in episode.verdicts},
    )


def _dialogue(prompt: Prompt, response: str) -> dict[str, Any]:
    conversation = prompt.conversation or ()
    if prompt.messages is None and len(conversation) < 2 and not prompt.tools:
        return {"prompt": prompt.text, "completion": response}
    tools = {"tools": list(prompt.tools)} if prompt.tools else {}
    answer = {"role": "assistant", "content": response}
    return {"prompt": list(conversation), "completion": [answer], **tools}
