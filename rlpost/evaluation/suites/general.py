"""``general``: simple facts that a small model knows in part, to see what training made it forget.

Owns the reading of general.yaml. Judged by ``verifier=names``: a response is right that names the
answer and none of the other answers of its table. That was chosen over comparing the likelihoods of
given answers because it needs nothing but generated text, so this suite is answered, judged, stored
and continued as every other one, and it is wrong in the way that a reader of the responses would
call wrong. Invariant: there is nothing to train on here, because what is taught is not remembered.
"""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from rlpost.evaluation.suites.item import SuiteItem

_FACTS = Path(__file__).with_name("general.yaml")


@cache
def general_items() -> tuple[SuiteItem, ...]:
    """Return every fact, the tables in turn, so that the first few are of every kind."""
    tables = yaml.safe_load(_FACTS.read_text(encoding="utf-8"))
    found = [_items(table) for table in tables]
    longest = max(map(len, found))
    return tuple(each[row] for row in range(longest) for each in found if row < len(each))


def _items(table: dict[str, Any]) -> list[SuiteItem]:
    answers = {
        asked: list(given) if isinstance(given, list) else [given]
        for asked, given in table["answers"].items()
    }
    items = []
    for asked, accepted in answers.items():
        question = f"{table['question'].format(asked)} {table['request']}"
        wrong = dict.fromkeys(each for given in answers.values() for each in given)
        others = [each for each in wrong if each not in accepted and each != asked]
        items.append(
            SuiteItem(
                kind=table["kind"],
                key=(table["question"], asked),
                prompt=question,
                answer=accepted[0],
                columns={"accepted": accepted[1:], "others": others},
            )
        )
    return items
