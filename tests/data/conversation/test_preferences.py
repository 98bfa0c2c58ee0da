"""Pairs and judged completions: what the sides share, how they differ, and what is refused."""

import numpy as np
import pytest
from chat_families import FAMILIES, SAY, SAY_AGAIN, stop_ids, tokenizer_of

from rlpost.data.conversation.encoder import ConversationEncoder
from rlpost.data.conversation.preferences import (
    JudgedEncoder,
    PairEncoder,
    judgements_of_judged,
    judgements_of_pair,
    shared_prompt,
)
from rlpost.data.records import Completion, Judged, Pair
from rlpost.errors import DataError

PLAIN, TRIMS = "ChatML", "Gemma-2/3"
ENCODABLE = [name for name, family in FAMILIES.items() if family.marked]


def messages_of(name):
    """A prompt, and one answer to it as the family's conversation has it."""
    *prompt, answer = FAMILIES[name].messages
    return tuple(prompt), answer


def pair_of(name, **changes):
    prompt, answer = messages_of(name)
    other = answer["content"].replace(SAY_AGAIN, "Seven.").replace(SAY, "It is seven. Or not.")
    worse = {**answer, "content": other}
    fields = {"prompt": prompt, "chosen": (answer,), "rejected": (worse,), "address": "p.jsonl:3"}
    return Pair(**(fields | changes))


def encoder_of(name, **options):
    return PairEncoder(tokenizer_of(name), stop_ids=stop_ids(name), **options)


@pytest.mark.parametrize("name", ENCODABLE)
def test_each_side_is_encoded_as_fine_tuning_encodes_it(name):
    pair = pair_of(name)
    sides = encoder_of(name).encode(pair)
    alone = ConversationEncoder(tokenizer_of(name), stop_ids=stop_ids(name))
    for side, completion in zip(sides, (pair.chosen, pair.rejected), strict=True):
        (expected,) = alone.encode(
            Completion(prompt=pair.prompt, completion=completion, address="p.jsonl:3")
        )
        assert side.ids.tolist() == expected.ids.tolist()
        assert side.trained.tolist() == expected.trained.tolist()
        assert side.address == "p.jsonl:3" and not len(side.labels)


@pytest.mark.parametrize("name", ENCODABLE)
def test_both_sides_begin_with_the_prompt_and_train_nothing_of_it(name):
    chosen, rejected = encoder_of(name).encode(pair_of(name))
    start = shared_prompt([chosen, rejected])
    assert start > 0 and np.array_equal(chosen.ids[:start], rejected.ids[:start])
    assert not chosen.trained[:start].any() and not rejected.trained[:start].any()
    assert not np.array_equal(chosen.ids[start:], rejected.ids[start:])
    assert chosen.trained.any() and rejected.trained.any()


@pytest.mark.parametrize("name", ENCODABLE)
def test_a_judged_completion_is_the_side_of_a_pair(name):
    pair = pair_of(name)
    judged = JudgedEncoder(tokenizer_of(name), stop_ids=stop_ids(name))
    both = judged.encode(pair)
    for side, completion, label in zip(
        both, (pair.chosen, pair.rejected), (True, False), strict=True
    ):
        (alone,) = judged.encode(
            Judged(prompt=pair.prompt, completion=completion, label=label, address="p.jsonl:3")
        )
        assert alone.ids.tolist() == side.ids.tolist()
        assert alone.labels.tolist() == side.labels.tolist() == [float(label)]
    assert judgements_of_judged(both) == ["good", "bad"]


def test_a_margin_is_the_label_of_the_chosen_side():
    encoder = encoder_of(PLAIN, margin_column="stars")
    sides = encoder.encode(pair_of(PLAIN, columns={"stars": 1.5}))
    assert [each.labels.tolist() for each in sides] == [[1.5], []]
    assert judgements_of_pair(sides) == ["chosen, margin 1.5", "rejected"]
    assert judgements_of_pair(encoder_of(PLAIN).encode(pair_of(PLAIN))) == ["chosen", "rejected"]


@pytest.mark.parametrize("value", [None, "2", True, float("nan"), float("inf"), 1e39, 10**400])
def test_a_margin_that_is_no_number_is_refused(value):
    with pytest.raises(DataError, match=r"^p\.jsonl:3: column 'stars', the margin"):
        encoder_of(PLAIN, margin_column="stars").encode(pair_of(PLAIN, columns={"stars": value}))


def test_a_column_of_margins_that_is_not_there_is_told_from_one_without_a_value():
    with pytest.raises(DataError, match=r"^p\.jsonl:3: no column 'stars' .*are there: points$"):
        encoder_of(PLAIN, margin_column="stars").encode(pair_of(PLAIN, columns={"points": 1}))


def answer(content, **more):
    return ({"role": "assistant", "content": content, **more},)


def retold(first):
    """An answer that is shown and not trained, and one behind it."""
    return (*answer(first, weight=0), {"role": "user", "content": "Sure?"}, *answer("Yes."))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rejected": answer("  ")}, "p.jsonl:3: rejected: message 3: the answer is empty"),
        ({"chosen": answer("")}, "p.jsonl:3: chosen: message 3: the answer is empty"),
        ({"chosen": answer(SAY), "rejected": answer(f"{SAY} ")}, "the same tokens"),
        ({"chosen": answer(SAY, weight=0)}, "chosen: nothing of the conversation is trained"),
        (
            {"chosen": retold("Four."), "rejected": retold("Five.")},
            "no two answers to one prompt",
        ),
    ],
    ids=["empty rejected", "empty chosen", "identical", "nothing trained", "other prompts"],
)
def test_a_pair_that_says_nothing_is_refused(changes, said):
    name = TRIMS if "same" in said else PLAIN
    with pytest.raises(DataError, match=said.replace(".", r"\.")):
        encoder_of(name).encode(pair_of(name, **changes))


def test_a_completion_of_several_answers_that_are_shown_in_two_ways_is_refused():
    name = next(n for n in ENCODABLE if len(FAMILIES[n].marked) > 1)
    first, *rest = FAMILIES[name].messages
    worse = [*rest[:-1], {**rest[-1], "content": SAY}]
    pair = pair_of(name, prompt=(first,), chosen=tuple(rest), rejected=tuple(worse))
    with pytest.raises(DataError, match=r"p\.jsonl:3: chosen: .* 2 sequences"):
        encoder_of(name).encode(pair)


def test_a_cut_pair_keeps_both_sides_or_neither():
    prompt = ({"role": "user", "content": "Hi"},)
    more = ({"role": "user", "content": "More"},)
    long = (*answer("Yes."), *more, *answer("a long answer " * 9))
    pair = pair_of(PLAIN, prompt=prompt, chosen=long, rejected=answer("No."))
    whole, short = encoder_of(PLAIN).encode(pair)
    cut, same = encoder_of(PLAIN, truncate_to=len(whole) - 1).encode(pair)
    assert len(cut) < len(whole) and cut.trained[-1] and same.ids.tolist() == short.ids.tolist()
    with pytest.raises(DataError, match=r"p\.jsonl:3: chosen: the row has \d+ tokens, at most 3"):
        encoder_of(PLAIN, truncate_to=3).encode(pair)
    alike = pair_of(PLAIN, prompt=prompt, chosen=long, rejected=(*long[:2], *answer("no " * 60)))
    with pytest.raises(DataError, match=r"the same tokens.*if both were cut"):
        encoder_of(PLAIN, truncate_to=len(cut) + 4).encode(alike)


def test_what_decides_tokens_or_labels_is_in_the_fingerprint():
    tokenizer = tokenizer_of(PLAIN)
    prints = [
        PairEncoder(tokenizer).fingerprint,
        PairEncoder(tokenizer, margin_column="m").fingerprint,
        PairEncoder(tokenizer, truncate_to=9).fingerprint,
        JudgedEncoder(tokenizer).fingerprint,
        JudgedEncoder(tokenizer, truncate_to=9).fingerprint,
        ConversationEncoder(tokenizer).fingerprint,
    ]
    assert len(set(prints)) == len(prints)
    assert PairEncoder(tokenizer).fingerprint == prints[0]
