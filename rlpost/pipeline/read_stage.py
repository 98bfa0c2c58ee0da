"""One stage of a pipeline's file -> a record.

Owns the keys of a stage. Refuses to own those of the file (read.py), the rules of single values
(fields.py) and what a stage's options mean (the stage composes them).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rlpost.pipeline.fields import Fields
from rlpost.pipeline.gate import parse_gate
from rlpost.pipeline.spec import BASE, OnFail, Prune, Retry, StageSpec

MAX_RETRIES = 10


class StageReader:
    """Reads stages.

    Args:
        fields: of the file.
        commands: what each command makes, the usual first; none: it is no stage of a pipeline.
    """

    def __init__(self, fields: Fields, commands: Mapping[str, Sequence[str]]) -> None:
        self._fields = fields
        self._commands = commands

    def read(self, tree: Any, at: str) -> StageSpec:
        """Return the stage at ``at``."""
        tree = self._fields.mapping(tree, at)
        optional = (
            "from", "teacher", "output", "data", "set", "gate", "retry", "on_fail",
        )  # fmt: skip
        self._fields.keys(tree, at, ("id", "run"), optional)
        run = self._fields.text(tree["run"], f"{at}.run")
        able = [name for name, makes in self._commands.items() if makes]
        if run not in able:
            self._fields.unknown(f"{at}.run", run, "command that makes something", able)
        start, prune = self._start(tree.get("from", BASE), f"{at}.from")
        output = tree.get("output")
        if output is not None and output not in self._commands[run]:
            makes = ", ".join(self._commands[run])
            self._fields.refuse(f"{at}.output", output, f"rlpost {run} makes: {makes}")
        gates = tree.get("gate", [])
        gates = [gates] if isinstance(gates, str) else gates
        if not isinstance(gates, list):
            self._fields.refuse(f"{at}.gate", gates, "must be a list of expressions")
        return StageSpec(
            id=self._fields.id(tree["id"], f"{at}.id"),
            run=run,
            start=start,
            prune=prune,
            teacher=None
            if "teacher" not in tree
            else self._fields.id(tree["teacher"], f"{at}.teacher"),
            output=output or self._commands[run][0],
            data=self._data(tree.get("data", {}), f"{at}.data"),
            options=self._fields.options(tree.get("set", {}), f"{at}.set"),
            gates=tuple(
                parse_gate(
                    self._fields.text(each, f"{at}.gate[{n}]"),
                    field=self._fields.at(f"{at}.gate[{n}]"),
                )
                for n, each in enumerate(gates)
            ),
            retry=self._retry(tree["retry"], f"{at}.retry") if "retry" in tree else None,
            on_fail=self._fields.choice(tree["on_fail"], f"{at}.on_fail", OnFail)
            if "on_fail" in tree
            else None,
        )

    def _start(self, tree: Any, at: str) -> tuple[tuple[str, ...], Prune | None]:
        if isinstance(tree, list):
            if len(tree) < 2:
                self._fields.refuse(
                    at, tree, "a list merges at least two models; give one by its id"
                )
            return tuple(self._fields.id(each, f"{at}[{n}]") for n, each in enumerate(tree)), None
        if not isinstance(tree, dict):
            return (self._fields.id(tree, at),), None
        self._fields.keys(tree, at, ("prune",), ())
        prune = self._fields.mapping(tree["prune"], f"{at}.prune")
        self._fields.keys(prune, f"{at}.prune", ("of", "layers"), ())
        layers = prune["layers"]
        if not isinstance(layers, int) or isinstance(layers, bool) or layers < 1:
            self._fields.refuse(
                f"{at}.prune.layers", layers, "must be a number of layers, from 1 on"
            )
        of = self._fields.id(prune["of"], f"{at}.prune.of")
        return (of,), Prune(of=of, layers=layers)

    def _data(self, tree: Any, at: str) -> dict[str, Any]:
        """Read where rows come from; ``train`` may be a list, and ``replay`` a share of it."""
        data: dict[str, Any] = self._fields.mapping(tree, at)
        if "replay" in data:
            replay = self._fields.mapping(data["replay"], f"{at}.replay")
            self._fields.keys(replay, f"{at}.replay", ("source", "fraction"), ())
            self._fields.text(replay["source"], f"{at}.replay.source")
            self._fields.number(replay["fraction"], f"{at}.replay.fraction", 1e-6, 0.999999)
            if "train" not in data:
                self._fields.refuse(
                    f"{at}.replay", replay, "is mixed into train, and there is none"
                )
        train = data.get("train")
        if isinstance(train, list):
            if not train:
                self._fields.refuse(f"{at}.train", train, "must name at least one source")
            for number, each in enumerate(train):
                self._fields.text(each, f"{at}.train[{number}]")
        return data

    def _retry(self, tree: Any, at: str) -> Retry:
        tree = self._fields.mapping(tree, at)
        self._fields.keys(tree, at, ("times", "set"), ())
        times = self._fields.whole(tree["times"], f"{at}.times", MAX_RETRIES)
        changes = self._fields.options(tree["set"], f"{at}.set")
        if not changes:
            self._fields.refuse(
                f"{at}.set", {}, "must change something: the same settings fail again"
            )
        for name, value in changes.items():
            if isinstance(value, str) and value.startswith("*"):
                try:
                    factor = float(value[1:])
                except ValueError:
                    factor = math.nan
                if not (math.isfinite(factor) and factor != 1):
                    self._fields.refuse(
                        f"{at}.set.{name}", value, 'must be a factor such as "*0.5"'
                    )
        return Retry(times=times, changes=changes)
