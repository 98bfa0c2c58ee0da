"""A behaviour to learn from preferences: what its verifier says, and no other way out."""

import re

import pytest

from rlpost.data.rows import Split
from rlpost.data.sources.load import load_rows
from rlpost.data.synthetic.catalog import PAIR_SETS
from rlpost.models.embedded import materialize
from rlpost.verifiers.base import Sample
from rlpost.verifiers.kinds import verifiers
from rlpost.verifiers.kinds.build import build

SET = PAIR_SETS["lowercase"]
TRAINED, HELD_OUT = SET.training(900, 0), SET.held_out()


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(materialize())


def test_its_verifier_tells_the_sides_apart_on_every_held_out_row():
    cfg = verifiers.get("format").config()
    judge = build(cfg)
    rows = list(load_rows("pairs:lowercase", split=Split.HELDOUT, size=10**5))
    assert len(rows) >= 300
    for row in rows:
        columns = row.columns
        assert cfg.refusal(columns) is None
        assert cfg.own_answer(columns) == columns["chosen"]

        def reward(text, columns=columns):
            score = judge(Sample(prompt=columns["prompt"], text=text, columns=columns))
            return score["reward"] if isinstance(score, dict) else score

        assert reward(columns["chosen"]) == 1
        assert reward(columns["rejected"]) == 0
        assert reward("") == 0


def test_both_answers_say_the_same():
    for item in (*TRAINED, *HELD_OUT):
        assert item.rejected.lower() == item.chosen != item.rejected
        capitals = re.findall(r"[A-Z]", item.rejected)
        assert len(capitals) == len(re.findall(r"(?:^|\. )[A-Z]", item.rejected)) == 2


def test_both_answers_have_equally_many_tokens(tokenizer):
    counts = [
        [len(tokenizer(side).input_ids) for side in (item.chosen, item.rejected)]
        for item in HELD_OUT
    ]
    better, worse = (sum(side) / len(side) for side in zip(*counts, strict=True))
    assert better == pytest.approx(worse, rel=0.02)
    assert max(map(max, counts)) <= 40


def test_no_prompt_asks_for_the_behaviour():
    for item in (*TRAINED, *HELD_OUT):
        assert not re.search(r"letter|case|capital", item.prompt.replace("a letter", ""))
        assert item.prompt[0].isupper()
