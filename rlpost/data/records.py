"""What a row of a data set means, once its format was recognised.

Owns the records that encoders take. Refuses to own how a row becomes one (formats/) and tokens
(example.py). Invariant: a record holds plain JSON data that was checked: messages have known roles
and text contents, and what is to be learned is never missing.

In every record ``columns`` are the columns of the row that are not part of its format, such as a
source's name or a score, and ``address`` is the row's place, such as ``train.jsonl:17``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

Turns = tuple[Mapping[str, Any], ...]  # messages {"role": ..., "content": ...}
Schemas = tuple[Mapping[str, Any], ...]  # functions that the model may call, in OpenAI's layout
Content = str | Turns


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """Messages of which the last is the assistant's.

    Example: ``Conversation(messages=({"role": "user", "content": "2 + 2?"},
    {"role": "assistant", "content": "4"}), address="train.jsonl:17")``
    """

    messages: Turns
    address: str
    tools: Schemas = ()
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A prompt and what follows it; either may be text or messages.

    Messages of a prompt end where the model is to answer; those of a completion begin with the
    assistant's answer.

    Example: ``Completion(prompt="The sky is", completion=" blue.", address="train.jsonl:17")``
    """

    prompt: Content
    completion: Content
    address: str
    tools: Schemas = ()
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Document:
    """Text that is learned as a whole, without a chat template.

    Example: ``Document(text="Once upon a time", address="books.jsonl:3")``
    """

    text: str
    address: str
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A prompt with a better and a worse completion.

    Example: ``Pair(prompt="2 + 2?", chosen="4", rejected="5", address="pairs.jsonl:2")``
    """

    prompt: Content
    chosen: Content
    rejected: Content
    address: str
    tools: Schemas = ()
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A prompt with one completion, and whether that is good.

    Example: ``Judged(prompt="2 + 2?", completion="5", label=False, address="judged.jsonl:9")``
    """

    prompt: Content
    completion: Content
    label: bool
    address: str
    tools: Schemas = ()
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Stepwise:
    """A prompt with the steps of a solution, and how right each step is, from 0 to 1.

    Example: ``Stepwise(prompt="2 + 2 * 3?", completions=("2 * 3 = 6.", "2 + 6 = 9."),
    labels=(1.0, 0.0), address="steps.jsonl:4")``
    """

    prompt: Content
    completions: tuple[str, ...]
    labels: tuple[float, ...]  # one for each step
    address: str
    columns: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert len(self.completions) == len(self.labels), self.address


Record = Conversation | Completion | Document | Pair | Judged | Stepwise


def asked(record: Record) -> Turns:
    """Return what comes before the first answer; nothing if there is no prompt.

    Text is as a user's message, so that both ways to write a prompt are equal.
    """
    if isinstance(record, Document):
        return ()
    if isinstance(record, Conversation):
        return tuple(takewhile(lambda each: each["role"] != "assistant", record.messages))
    if isinstance(record.prompt, str):
        return ({"role": "user", "content": record.prompt},)
    return record.prompt
