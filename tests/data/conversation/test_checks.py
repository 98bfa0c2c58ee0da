"""The checks of encoded conversations, and that each one fails on its fault."""

import numpy as np
import pytest
from chat_families import CONVERSATION
from transformers import PreTrainedTokenizerFast

from rlpost.data.conversation.checks import check_answers, check_bos
from rlpost.data.conversation.encoder import ConversationEncoder
from rlpost.data.conversation.stops import Stops
from rlpost.data.records import Conversation
from rlpost.errors import DataError

ROW = Conversation(messages=CONVERSATION, address="t.jsonl:7")


def prompts_of(tokenizer: PreTrainedTokenizerFast) -> list[np.ndarray]:
    """transformers' own prompts, rendered and tokenized in one call."""
    return [
        np.array(
            tokenizer.apply_chat_template(
                list(CONVERSATION[:at]), add_generation_prompt=True, return_dict=False
            )
        )
        for at in (1, 3)
    ]


def run(tokenizer: PreTrainedTokenizerFast, ids: np.ndarray, trained: np.ndarray) -> None:
    check_answers(
        ids,
        trained,
        prompts=prompts_of(tokenizer),
        stops=Stops(tokenizer),
        narrowed=False,
        address="t.jsonl:7",
    )


def shifted(mask: np.ndarray, by: int) -> np.ndarray:
    return np.roll(mask, by)


def without_ends(mask: np.ndarray, ids: np.ndarray, stop: int) -> np.ndarray:
    return mask & (ids != stop)


def test_the_right_mask_passes_and_each_usual_mistake_fails(chat: PreTrainedTokenizerFast) -> None:
    (example,) = ConversationEncoder(chat).encode(ROW)
    # A rendered conversation has a line feed after the last turn too.
    ids = np.append(example.ids, chat("\n")["input_ids"]).astype(np.int32)
    mask = np.append(example.trained, False)
    run(chat, ids, mask)
    last_only = mask.copy()
    last_only[: len(prompts_of(chat)[1])] = False
    header = mask.copy()
    header[len(prompts_of(chat)[0]) - 1] = True
    mistakes = {
        "no token of the row is trained": np.zeros_like(mask),
        "token 0 is trained, but belongs to no answer": np.ones_like(mask),
        "a part of an answer is not trained": shifted(mask, 1),
        "end-of-turn token ('<|im_end|>') is not trained": without_ends(
            mask, ids, chat.eos_token_id
        ),
        "is not trained, so the model would not learn to stop": last_only,
        f"token {len(prompts_of(chat)[0]) - 1} is trained": header,
    }
    for reason, mistake in mistakes.items():
        with pytest.raises(DataError) as caught:
            run(chat, ids, mistake)
        assert str(caught.value).startswith("t.jsonl:7: ") and reason in str(caught.value)
    with pytest.raises(DataError, match=r"end-of-turn token .* is not trained"):
        run(chat, ids, shifted(mask, -1))
    line_feed = mask.copy()
    line_feed[-1] = True  # after the last end-of-turn token
    with pytest.raises(DataError, match=f"token {len(mask) - 1} is trained, but belongs to no"):
        run(chat, ids, line_feed)


def test_tokens_in_front_of_an_answer_are_compared(chat: PreTrainedTokenizerFast) -> None:
    (example,) = ConversationEncoder(chat).encode(ROW)
    other = example.ids.copy()
    other[3] += 1
    with pytest.raises(DataError, match="are not those that generation begins with"):
        run(chat, other, example.trained)


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        ([1, 7, 9], None),
        ([7, 9], None),
        ([1, 7, 9, 1, 7, 9], None),  # before each turn, as Llama-2's template writes it
        ([1, 1, 7, 9], "two beginning-of-sequence tokens"),
        ([7, 1, 1, 9], "two beginning-of-sequence tokens"),
        ([7, 1, 9], "first occurs as token 1"),
    ],
)
def test_tokens_that_begin_a_sequence(
    chat: PreTrainedTokenizerFast, ids: list[int], reason: str | None
) -> None:
    def check(bos: int | None) -> None:
        check_bos(np.array(ids, np.int32), bos=bos, stops=Stops(chat), address="t.jsonl:7")

    check(None)
    if reason is None:
        check(1)
        return
    with pytest.raises(DataError, match=f"^t.jsonl:7: .*{reason}|^t.jsonl:7: {reason}"):
        check(1)
