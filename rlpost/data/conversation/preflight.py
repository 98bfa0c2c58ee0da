"""Shows which tokens of an example are trained: for a console, a page or a program.

Owns the split of an example into marked text and its three forms. Refuses to own which examples are
shown and where (the stage and the report). Invariant: what is trained can be told from what is not
without colour, because it stands between ⟦ and ⟧.
"""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

from rich.console import Console
from rich.text import Text

from rlpost.data.conversation.continuation import decoded
from rlpost.data.example import Example

OPEN, CLOSE = "⟦", "⟧"
_LONGEST = 1200  # characters of one stretch; more are left out in its middle


@dataclass(frozen=True, kw_only=True)
class MarkedText:
    """A stretch of text whose tokens are all trained, or all not."""

    text: str
    trained: bool


@dataclass(frozen=True, kw_only=True)
class MaskSample:
    """One example as marked text, special tokens included.

    Example: ``MaskSample(address="train.jsonl:17", num_tokens=9, num_trained=2,
    stretches=(MarkedText(text="<|user|>2 + 2?<|assistant|>", trained=False),
    MarkedText(text="4<|end|>", trained=True)))``
    """

    address: str
    num_tokens: int
    num_trained: int
    stretches: tuple[MarkedText, ...]

    def __str__(self) -> str:
        """Example: ``train.jsonl:17: 2 of 9 tokens are trained``."""
        return f"{self.address}: {self.num_trained} of {self.num_tokens} tokens are trained"


def preflight(examples: Iterable[Example], tokenizer: Any, *, count: int = 3) -> list[MaskSample]:
    """Return the first ``count`` examples as marked text."""
    return [mask_sample(each, tokenizer) for each in islice(examples, count)]


def mask_sample(example: Example, tokenizer: Any) -> MaskSample:
    """Return one example as marked text, whose stretches together are its whole text."""
    stretches, before, end = [], "", 0
    for trained, group in groupby(example.trained.tolist()):
        start, end = end, end + sum(1 for _ in group)
        # A tokenizer may drop a space at the beginning of a text, so stretches are not decoded
        # by themselves unless a character lies across their boundary.
        whole = decoded(tokenizer, example.ids[:end].tolist())
        if whole.startswith(before):
            text = whole[len(before) :]
        else:
            text = decoded(tokenizer, example.ids[start:end].tolist())
        stretches.append(MarkedText(text=text, trained=trained))
        before = whole
    return MaskSample(
        address=example.address,
        num_tokens=len(example),
        num_trained=int(example.trained.sum()),
        stretches=tuple(stretches),
    )


def print_samples(samples: Sequence[MaskSample], console: Console) -> None:
    """Print samples: trained text bold and between ⟦ and ⟧, other text dim, line feeds as ⏎."""
    for sample in samples:
        line = Text(f"{sample}\n", style="bold")
        for each in sample.stretches:
            shown = _visible(each.text)
            if each.trained:
                line.append(f"{OPEN}{shown}{CLOSE}", style="bold green")
            else:
                line.append(shown, style="dim")
        console.print(line, soft_wrap=True)


def as_json(samples: Sequence[MaskSample]) -> list[dict[str, Any]]:
    """Return samples as plain data; ``runs`` are pairs of a text and whether it is trained."""
    return [
        {
            "address": sample.address,
            "num_tokens": sample.num_tokens,
            "num_trained": sample.num_trained,
            "runs": [[each.text, each.trained] for each in sample.stretches],
        }
        for sample in samples
    ]


def as_html(samples: Sequence[MaskSample]) -> str:
    """Return samples as a fragment of a page, with trained text in ``<mark>`` elements."""
    return "\n".join(_block(sample) for sample in samples)


def _block(sample: MaskSample) -> str:
    text = "".join(
        f"<mark>{OPEN}{_escaped(each.text)}{CLOSE}</mark>" if each.trained else _escaped(each.text)
        for each in sample.stretches
    )
    title = html.escape(str(sample))
    return f'<figure class="mask"><figcaption>{title}</figcaption><pre>{text}</pre></figure>'


def _escaped(text: str) -> str:
    return html.escape(_visible(text))


def _visible(text: str) -> str:
    """Return text with line feeds marked, other control characters escaped, and a short middle."""
    if len(text) > _LONGEST:
        half = _LONGEST // 2
        text = f"{text[:half]} ... {len(text) - _LONGEST} characters ... {text[-half:]}"
    return "".join(map(_character, text))


def _character(char: str) -> str:
    if char == "\n":
        return "⏎\n"
    return char if char.isprintable() else repr(char)[1:-1]
