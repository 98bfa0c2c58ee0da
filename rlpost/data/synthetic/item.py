"""What the items of synthetic sets are.

Owns the records. Refuses to own contents (the sets), the split (evaluation/suites/item.py) and rows
(data/sources/synthetic.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class PairItem:
    """One prompt with a better and a worse answer.

    Example: ``PairItem(kind="color", key=("cup", "red", "blue", 1), prompt="Anna has a red cup and
    Boris has a blue cup. What color is the cup of Boris?", chosen="It is blue.",
    rejected="It is red.")``
    """

    kind: str  # the part of the set that it belongs to
    key: tuple[Any, ...]  # the parameters that decide which answer is better
    prompt: str
    chosen: str
    rejected: str
    columns: Mapping[str, Any] = field(default_factory=dict)  # what a verifier of answers reads


@dataclass(frozen=True, kw_only=True)
class StepsItem:
    """One problem with the steps of a solution, some of them wrong.

    Example: ``StepsItem(kind="total", key=(2, 3), prompt="Anna has 2 pens, Boris has 3. ...",
    steps=("Anna has 2.", "Together that is 6."), labels=(True, False))``
    """

    kind: str
    key: tuple[Any, ...]
    prompt: str
    steps: tuple[str, ...]
    labels: tuple[bool, ...]  # whether each step is right
