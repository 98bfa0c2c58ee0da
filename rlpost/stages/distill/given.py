"""Prompts of online distillation whose response is given by their row, not sampled.

Owns which prompts these are and what is learned of them. Refuses to own the samples (online.py).
Invariant: whether a prompt is answered depends on the run's seed and its uid alone, so a run that
goes on decides as one that nothing disturbed.
"""

from dataclasses import dataclass

from rlpost.data.conversation.encoder import ConversationEncoder
from rlpost.data.dataset import PromptDataset
from rlpost.data.example import Example
from rlpost.data.formats.reader import RecordReader
from rlpost.data.records import Completion
from rlpost.data.rows import Row
from rlpost.errors import DataError
from rlpost.rollout.collector import request_seed
from rlpost.types import Prompt

COLUMN = "completion"
_SEEDS = 2**62  # what ``request_seed`` returns is below


@dataclass(frozen=True, kw_only=True)
class GivenResponses:
    """The responses in the data.

    Example: ``GivenResponses(encoder=encoder, on_policy=0.5, seed=cfg.seed, max_tokens=4096)``
    """

    encoder: ConversationEncoder
    on_policy: float  # share of prompts that are answered
    seed: int
    max_tokens: int  # of an example

    def answers(self, prompt: Prompt) -> bool:
        """Whether the student answers a prompt."""
        return request_seed(self.seed, "on-policy", prompt.uid) < self.on_policy * _SEEDS

    def examples(self, prompt: Prompt) -> list[Example]:
        """Return the examples of the row's own response.

        Raises:
            DataError: the row has none, or it cannot be learned.
        """
        completion = prompt.columns.get(COLUMN)
        if completion is None:
            raise DataError(
                f"{prompt.address}: no column {COLUMN!r}, whose response is compared where the "
                f"student does not answer (data.on_policy_fraction={self.on_policy:g}); add it, or "
                "set data.on_policy_fraction=1"
            )
        asked = prompt.text if prompt.messages is None else list(prompt.messages)
        if prompt.conversation is not None:
            asked = list(prompt.conversation)
            if isinstance(completion, str):
                completion = [{"role": "assistant", "content": completion}]
        columns = {"prompt": asked, COLUMN: completion, "tools": list(prompt.tools) or None}
        row = Row(columns=columns, address=prompt.address)
        record = RecordReader(accepts=(Completion,)).read(row)
        found = [_named(each, prompt.uid) for each in self.encoder.encode(record)]
        longest = max(map(len, found))
        if longest > self.max_tokens:
            raise DataError(
                f"{prompt.address}: the row and its response have {longest} tokens, at most "
                f"{self.max_tokens} fit; shorten it, or raise trainer.max_tokens_per_micro_batch"
            )
        return found

    def check(self, prompts: PromptDataset) -> None:
        """Raises DataError: a row has no response, or one that cannot be learned."""
        for row in range(len(prompts)):
            self.examples(prompts.prompt(0, row))


def _named(example: Example, uid: str) -> Example:
    return Example(ids=example.ids, trained=example.trained, address=example.address, uid=uid)
