"""What a pipeline's file says, as records.

Owns the shape. Refuses to own reading (read.py), order (graph.py) and decisions (decide.py).
Invariant: a record that exists passed every rule that can be checked without other files.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from rlpost.pipeline.gate import Gate

BASE = "base"  # what the model that a pipeline starts from is called in its file
STAGE_PREFIX = "stage:"  # in front of an id: the model, or the data set, that the stage makes


class OnFail(Enum):
    """What a gate that fails does, after the last attempt."""

    stop = "stop"  # the pipeline ends
    rollback = "rollback"  # the model that the stage started from takes its place
    warn = "warn"  # nothing else


@dataclass(frozen=True, kw_only=True)
class SuiteSpec:
    """One set of items that models are scored on.

    Example: ``SuiteSpec(name="target", data="heldout.jsonl", verifier="math", samples=8,
    metric="pass@1")``
    """

    name: str
    data: str  # a source, or bundled:NAME
    verifier: str | None = None  # None: the bundled suite's own
    verifier_options: Mapping[str, Any] = field(default_factory=dict)
    samples: int = 1
    metric: str = "accuracy"  # mean reward; or pass@K, best@K
    temperature: float | None = None  # None: greedy for one sample, 1 for several
    max_tokens: int = 512
    size: int | None = None  # at most so many items, the first ones; None: all

    @property
    def sampling_temperature(self) -> float:
        if self.temperature is not None:
            return self.temperature
        return 0.0 if self.samples == 1 else 1.0

    @property
    def k(self) -> int | None:
        """K of ``pass@K`` and ``best@K``; None: the metric is a mean of rewards."""
        match = re.search(r"@(\d+)$", self.metric)
        return int(match[1]) if match else None


@dataclass(frozen=True, kw_only=True)
class Retry:
    """How often a stage whose gate failed is tried again, and what changes each time."""

    times: int
    changes: Mapping[str, Any]  # option -> value, or "*FACTOR" of what it was


@dataclass(frozen=True, kw_only=True)
class Prune:
    """A start that is a copy of a model with fewer layers."""

    of: str
    layers: int


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """One stage of a pipeline.

    Example: ``StageSpec(id="rl1", run="rl", start=("cold_start",))``
    """

    id: str
    run: str  # the command
    start: tuple[str, ...] = (BASE,)  # what it starts from; several: what it merges
    prune: Prune | None = None  # then ``start`` holds what the copy is made of
    teacher: str | None = None
    output: str | None = None  # model, dataset; None: what the command makes
    data: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)  # dotted path -> value
    gates: tuple[Gate, ...] = ()
    retry: Retry | None = None
    on_fail: OnFail | None = None  # None: that of the pipeline

    def references(self) -> Iterator[tuple[str, str]]:
        """Yield (field, id) of everything that the stage is made of, except gates."""
        for each in self.start:
            yield ("from.prune.of" if self.prune else "from"), each
        if self.teacher is not None:
            yield "teacher", self.teacher
        for place, tree in (("data", self.data), ("set", self.options)):
            for text in strings_of(tree):
                if text.startswith(STAGE_PREFIX):
                    yield place, text.removeprefix(STAGE_PREFIX)


@dataclass(frozen=True, kw_only=True)
class PipelineSpec:
    """A whole file."""

    name: str
    base: str  # path of the model that it starts from
    stages: tuple[StageSpec, ...]
    suites: Mapping[str, SuiteSpec] = field(default_factory=dict)
    confidence: float = 0.95
    on_fail: OnFail = OnFail.stop
    # command -> options of all its stages; those of evaluate are of the scores, too
    common: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    publish: str | None = None  # whose model is the result

    def stage(self, name: str) -> StageSpec:
        """Return the stage of this id."""
        return next(each for each in self.stages if each.id == name)

    def on_fail_of(self, stage: StageSpec) -> OnFail:
        """Return what a failing gate of ``stage`` does."""
        return stage.on_fail or self.on_fail


def strings_of(tree: Any) -> Iterator[str]:
    """Yield every string in nested mappings and lists."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, Mapping):
        for each in tree.values():
            yield from strings_of(each)
    elif isinstance(tree, Sequence):
        for each in tree:
            yield from strings_of(each)
