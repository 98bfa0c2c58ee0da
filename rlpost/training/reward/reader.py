"""What a reward model is given to read: token ids of one prompt and response.

Owns the choice between the policy's own ids and a new rendering. Refuses to own scoring
(scorer.py). Invariants: the policy's ids are read only where the reward model would
have rendered the same text into the same ids; every special token is one that the template
wrote, or, without a template, one that the tokenizer adds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlpost.data.boundary import refusal
from rlpost.data.template import render
from rlpost.errors import DataError
from rlpost.models.vocabulary import same_vocabulary
from rlpost.types import Episode, Prompt


@dataclass(frozen=True, kw_only=True)
class RewardSample:
    """One response to score, in every form that a reward model may need.

    Example: ``RewardSample(token_ids=(1, 5, 9, 21), conversation=({"role": "user",
    "content": "2 * 3 ="},), plain_prompt="2 * 3 =", text=" 6")``
    """

    token_ids: tuple[int, ...]  # of the policy: prompt and response
    conversation: tuple[Mapping[str, Any], ...]  # a string prompt is one user message
    plain_prompt: str | None  # of a string prompt that stands alone: no system prompt, no tools
    text: str  # the response without special tokens
    tools: tuple[Mapping[str, Any], ...] = ()
    address: str = ""  # file:line of the row

    @classmethod
    def of(cls, prompt: Prompt, episode: Episode) -> "RewardSample":
        """Take what the policy had read and written when the episode ended."""
        last = episode.trajectories[-1]
        return cls.of_text(prompt, text=episode.text, token_ids=last.prompt_ids + last.response_ids)

    @classmethod
    def of_text(
        cls, prompt: Prompt, *, text: str, token_ids: tuple[int, ...] = ()
    ) -> "RewardSample":
        conversation = prompt.conversation or ({"role": "user", "content": prompt.text},)
        alone = prompt.messages is None and len(conversation) == 1 and not prompt.tools
        return cls(
            token_ids=token_ids,
            conversation=conversation,
            plain_prompt=prompt.text if alone else None,
            text=text,
            tools=prompt.tools,
            address=prompt.address,
        )


class RewardReader:
    """Turns samples into token ids of the reward model at ``model_path``.

    The policy's ids are read as they are when both tokenizers agree on every id, and the
    reward model has the policy's chat template or none. Else the conversation is rendered by
    the reward model's template; without one, prompt and response are encoded as one text.

    Args:
        model_path: the reward model.
        policy_path: the model whose responses are scored.
        name: errors call the model ``reward_models.<name>``.

    Raises:
        DataError: the reward model has no usable tokenizer.
    """

    def __init__(self, *, model_path: str, policy_path: str, name: str) -> None:
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

    def ids(self, sample: RewardSample) -> list[int]:
        """Return what the model reads.

        Raises:
            DataError: the template refuses the conversation, or there is none and the
                conversation is more than one string.
        """
        if self.reads_ids:
            return list(sample.token_ids)
        at = f"{sample.address}: " if sample.address else ""
        if self._tokenizer.chat_template is not None:
            return render(
                self._tokenizer,
                [*sample.conversation, {"role": "assistant", "content": sample.text}],
                tools=sample.tools,
                address=f"{at}reward_models.{self._name}",
                add_generation_prompt=False,
            )
        if sample.plain_prompt is None:
            raise DataError(
                f"{at}reward_models.{self._name}.path: {self._path!r} must have a chat template, "
                "because its tokenizer differs from the policy's and the row holds messages; "
                "save one with its tokenizer, or use a reward model of the policy's family"
            )
        return list(self._tokenizer(sample.plain_prompt + sample.text)["input_ids"])

    def check(self, prompt: Prompt) -> None:
        """Raise the ``DataError`` that every response to this prompt would meet."""
        if not self.reads_ids:
            self.ids(RewardSample.of_text(prompt, text="a response"))
