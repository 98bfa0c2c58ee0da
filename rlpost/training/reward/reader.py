"""What a reward model is given to read: token ids of one prompt and response, and where it is read.

Owns the choice between the policy's own ids and a new rendering. Refuses to own scoring
(scorer.py). Invariants: the policy's ids are read only where the reward model would
have rendered the same text into the same ids; every special token is one that the template
wrote, or, without a template, one that the tokenizer adds; a reward model that ``rlpost reward``
trained reads what it read there, up to and with the end-of-turn token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from rlpost.data.boundary import refusal
from rlpost.data.conversation.encoder import ConversationEncoder
from rlpost.data.conversation.step_ends import step_ends
from rlpost.data.records import Completion
from rlpost.data.template import render
from rlpost.errors import DataError
from rlpost.models.origin import export_record
from rlpost.models.vocabulary import same_vocabulary
from rlpost.types import Episode, Prompt


@dataclass(frozen=True, kw_only=True)
class RewardSample:
    """One response to score, in every form that a reward model may need.

    Example: ``RewardSample(token_ids=(1, 5, 9, 21), conversation=({"role": "user",
    "content": "2 * 3 ="},), plain_prompt="2 * 3 =", text=" 6")``
    """

    token_ids: tuple[int, ...]  # of the policy: prompt and response
    num_prompt_tokens: int = 0  # of ``token_ids``
    conversation: tuple[Mapping[str, Any], ...]  # a string prompt is one user message
    plain_prompt: str | None  # of a string prompt that stands alone: no system prompt, no tools
    text: str  # the response without special tokens
    tools: tuple[Mapping[str, Any], ...] = ()
    address: str = ""  # file:line of the row

    @classmethod
    def of(cls, prompt: Prompt, episode: Episode) -> "RewardSample":
        """Take what the policy had read and written when the episode ended."""
        last = episode.trajectories[-1]
        sample = cls.of_text(prompt, text=episode.text)
        ids = last.prompt_ids + last.response_ids
        return replace(sample, token_ids=ids, num_prompt_tokens=len(last.prompt_ids))

    @classmethod
    def of_text(cls, prompt: Prompt, *, text: str) -> "RewardSample":
        """Take a response whose tokens are not known."""
        conversation = prompt.conversation or ({"role": "user", "content": prompt.text},)
        alone = prompt.messages is None and len(conversation) == 1 and not prompt.tools
        return cls(
            token_ids=(),
            conversation=conversation,
            plain_prompt=prompt.text if alone else None,
            text=text,
            tools=prompt.tools,
            address=prompt.address,
        )


@dataclass(frozen=True, kw_only=True)
class ReadResponse:
    """Token ids, and the places of those at which scores are read, at least one."""

    ids: Sequence[int]
    ends: Sequence[int]


class RewardReader:
    """Turns samples into token ids of the reward model at ``model_path``.

    The policy's ids are read as they are when both tokenizers agree on every id, and the
    reward model has the policy's chat template or none. Else the conversation is rendered by
    the reward model's template; without one, prompt and response are encoded as one text.

    Args:
        model_path: the reward model.
        policy_path: the model whose responses are scored.
        name: errors call the model ``reward_models.<name>``.
        step_separator: scores are read at the ends of steps that this text separates; None: at the
            last token alone.

    Raises:
        DataError: the reward model has no usable tokenizer.
    """

    def __init__(
        self, *, model_path: str, policy_path: str, name: str, step_separator: str | None = None
    ) -> None:
        from transformers import AutoTokenizer

        self._name, self._path = name, model_path
        with refusal(
            f"reward_models.{name}.path",
            f"{model_path!r} has no usable tokenizer",
            way_out="save the reward model's tokenizer with it",
        ):
            self._tokenizer: Any = AutoTokenizer.from_pretrained(model_path)
        template = AutoTokenizer.from_pretrained(policy_path).chat_template
        self.reads_ids = self._tokenizer.chat_template in (None, template) and same_vocabulary(
            model_path, policy_path
        )
        self._separator = step_separator
        trained_here = (export_record(Path(model_path)) or {}).get("stage") == "reward"
        self._as_trained = trained_here or step_separator is not None

    def read(self, sample: RewardSample) -> ReadResponse:
        """Return what the model reads, and where it is read.

        Raises:
            DataError: as of ``ids``.
        """
        ids = self.ids(sample)
        if self._separator is None or not ids:
            return ReadResponse(ids=ids, ends=(len(ids) - 1,))
        start = sample.num_prompt_tokens if self.reads_ids else self._written(sample).start
        ends = step_ends(self._tokenizer, ids[start:], separator=self._separator)
        return ReadResponse(ids=ids, ends=[start + end for end in ends])

    def ids(self, sample: RewardSample) -> list[int]:
        """Return what the model reads.

        Raises:
            DataError: the template refuses the conversation, or there is none and the
                conversation is more than one string.
        """
        if self.reads_ids:
            return list(sample.token_ids)
        if self._as_trained:
            return self._written(sample).ids
        if self._tokenizer.chat_template is not None:
            return render(
                self._tokenizer,
                [*sample.conversation, {"role": "assistant", "content": sample.text}],
                tools=sample.tools,
                address=self._address(sample),
                add_generation_prompt=False,
            )
        if sample.plain_prompt is None:
            self._refuse_messages(sample)
        return list(self._tokenizer(sample.plain_prompt + sample.text)["input_ids"])

    @cached_property
    def _encoder(self) -> ConversationEncoder:
        return ConversationEncoder(self._tokenizer)

    def check(self, prompt: Prompt) -> None:
        """Raise the ``DataError`` that every response to this prompt would meet."""
        if not self.reads_ids:
            self.ids(RewardSample.of_text(prompt, text="a response"))

    def _written(self, sample: RewardSample) -> "_Written":
        """Encode a response as ``rlpost reward`` encodes rows: up to its end-of-turn token."""
        templated = self._tokenizer.chat_template is not None
        if not templated and sample.plain_prompt is None:
            self._refuse_messages(sample)
        answer = {"role": "assistant", "content": sample.text}
        record = Completion(
            prompt=sample.conversation if templated else str(sample.plain_prompt),
            completion=(answer,) if templated else sample.text,
            tools=tuple(sample.tools),
            address=self._address(sample),
        )
        (example,) = self._encoder.encode(record)
        places = np.flatnonzero(example.trained)
        return _Written(ids=example.ids[: places[-1] + 1].tolist(), start=int(places[0]))

    def _address(self, sample: RewardSample) -> str:
        at = f"{sample.address}: " if sample.address else ""
        return f"{at}reward_models.{self._name}"

    def _refuse_messages(self, sample: RewardSample) -> NoReturn:
        raise DataError(
            f"{self._address(sample)}.path: {self._path!r} must have a chat template, because its "
            "tokenizer differs from the policy's and the row holds messages; save one with its "
            "tokenizer, or use a reward model of the policy's family"
        )


@dataclass(frozen=True, kw_only=True)
class _Written:
    """Token ids of a prompt and a response that begins at ``start``."""

    ids: list[int]
    start: int
