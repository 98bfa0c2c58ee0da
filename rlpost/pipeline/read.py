"""A pipeline's file -> records.

Owns the keys and their rules. Refuses to own the order of stages (graph.py) and what a stage's
options mean (the stage composes them). Invariant: a key that is not known, a value of another kind
and a name that would hide another one are refused with the field, the value and the way out.
"""

import difflib
import keyword
import math
import re
from collections.abc import Collection, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

import yaml

from rlpost.errors import DataError, UserError
from rlpost.pipeline.gate import Gate, parse_gate
from rlpost.pipeline.spec import (
    BASE,
    OnFail,
    PipelineSpec,
    Prune,
    Retry,
    StageSpec,
    SuiteSpec,
)

MAX_BYTES = 2**20  # of a file
MAX_RETRIES = 10
# What an id may be: it is a directory, and a name in gates.
_ID = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)
_METRIC = re.compile(r"accuracy|(pass|best)@[1-9]\d{0,3}", re.ASCII)
# Options that the pipeline sets itself -> what says so in its file.
_OWN = {
    "run.dir": "the pipeline's run.dir",
    "run.name": "the stage's id",
    "resume": "resume= of the pipeline",
    "model.path": "from",
    "teacher.path": "teacher",
}

E = TypeVar("E", bound=Enum)


def read_pipeline(path: Path, *, commands: Mapping[str, Sequence[str]]) -> PipelineSpec:
    """Read a file.

    Args:
        path: of the YAML.
        commands: what each stage command can make, the usual first; none: it is no stage of a
            pipeline.

    Raises:
        UserError: names the file, the field, its value, the rule and the way out.
        DataError: it cannot be read.
    """
    tree = _tree(path)
    return _Reader(str(path), commands).pipeline(tree)


def read_name(path: Path) -> str | None:
    """Return the ``name`` of a file; None: it has none, or cannot be read."""
    try:
        name = _tree(path).get("name")
    except UserError:
        return None
    return name if isinstance(name, str) else None


def _tree(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: a pipeline has at most {MAX_BYTES} bytes; is this its file?")
        text = path.read_text(encoding="utf-8")
        _refuse_twice(yaml.compose(text, Loader=yaml.SafeLoader), path)
        tree = yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        if isinstance(error, DataError):
            raise
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        raise DataError(f"{path}{line}: cannot be read: {reason:.200}") from error
    if not isinstance(tree, dict):
        raise DataError(f"{path}: must hold the keys of a pipeline, found {type(tree).__name__}")
    return tree


def _refuse_twice(node: Any, path: Path, seen: set[int] | None = None) -> None:
    """Refuse a key that is written twice, and parts that are used twice (anchors)."""
    seen = set() if seen is None else seen
    if isinstance(node, yaml.ScalarNode) or node is None:
        return
    line = f"{path}:{node.start_mark.line + 1}"
    if id(node) in seen:
        raise DataError(f"{line}: anchors and aliases are not supported; write the part out")
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for each in node.value:
            _refuse_twice(each, path, seen)
        return
    keys: set[str] = set()
    for key, value in node.value:
        name = str(key.value)
        if name in keys:
            raise DataError(f"{line}: {name!a:.60} is written twice; remove one")
        keys.add(name)
        _refuse_twice(value, path, seen)


class _Reader:
    """Reads one file; ``at`` and ``field`` in its functions are places in it."""

    def __init__(self, path: str, commands: Mapping[str, Sequence[str]]) -> None:
        self._path = path
        self._commands = commands

    def pipeline(self, tree: dict[str, Any]) -> PipelineSpec:
        self._keys(tree, "", ("name", "base", "stages"), ("gates", "common", "publish"))
        gates = self._mapping(tree.get("gates", {}), "gates")
        self._keys(gates, "gates", (), ("suites", "test", "confidence", "on_fail"))
        if gates.get("test", "paired_bootstrap") != "paired_bootstrap":
            self._refuse("gates.test", gates["test"], "must be paired_bootstrap")
        suites = self._mapping(gates.get("suites", {}), "gates.suites")
        base = self._mapping(tree["base"], "base")
        self._keys(base, "base", ("path",), ())
        stages = tree["stages"]
        if not isinstance(stages, list) or not stages:
            self._refuse("stages", stages, "must be a list of stages")
        spec = PipelineSpec(
            name=self._text(tree["name"], "name"),
            base=self._text(base["path"], "base.path"),
            stages=tuple(self._stage(each, f"stages[{n}]") for n, each in enumerate(stages)),
            suites={name: self._suite(name, each) for name, each in suites.items()},
            confidence=self._number(gates.get("confidence", 0.95), "gates.confidence", 0.5, 0.9999),
            on_fail=self._choice(gates.get("on_fail", "stop"), "gates.on_fail", OnFail),
            common={
                command: self._options(options, f"common.{command}")
                for command, options in self._mapping(tree.get("common", {}), "common").items()
            },
            publish=self._publish(tree.get("publish")),
        )
        self._check_names(spec)
        return spec

    def _check_names(self, spec: PipelineSpec) -> None:
        """Refuse an id that is taken, and names in gates and elsewhere that do not exist."""
        ids = [stage.id for stage in spec.stages]
        for number, stage in enumerate(spec.stages):
            at = f"stages[{number}]"
            if stage.id in ids[:number]:
                self._refuse(f"{at}.id", stage.id, "is the id of another stage; choose another")
            for place, name in stage.references():
                if name not in (BASE, *ids):
                    self._unknown(f"{at}.{place}", name, "stage", (BASE, *ids))
                if name == BASE and place in ("data", "set"):
                    self._refuse(f"{at}.{place}", "stage:base", "base is no stage; give its path")
            for gate in stage.gates:
                self._check_gate(gate, f"{at}.gate", spec)
        commands = {each.run for each in spec.stages} | ({"evaluate"} if spec.suites else set())
        for command in spec.common:
            if command not in commands:
                self._unknown(f"common.{command}", command, "stage that runs", sorted(commands))
        if spec.publish is not None and spec.publish not in ids:
            self._unknown("publish.from", spec.publish, "stage", ids)

    def _check_gate(self, gate: Gate, field: str, spec: PipelineSpec) -> None:
        for suite in gate.suites():
            if suite not in spec.suites:
                self._unknown(field, suite, "suite", spec.suites, within=gate.text)
        for each in gate.leaves():
            stage = getattr(each, "stage", None)
            names = [BASE, *(each.id for each in spec.stages)]
            if stage is not None and stage not in names:
                self._unknown(field, stage, "stage", names, within=gate.text)

    def _stage(self, tree: Any, at: str) -> StageSpec:
        tree = self._mapping(tree, at)
        optional = (
            "from", "teacher", "output", "data", "set", "gate", "retry", "on_fail",
        )  # fmt: skip
        self._keys(tree, at, ("id", "run"), optional)
        run = self._text(tree["run"], f"{at}.run")
        able = [name for name, makes in self._commands.items() if makes]
        if run not in able:
            self._unknown(f"{at}.run", run, "command that makes something", able)
        start, prune = self._start(tree.get("from", BASE), f"{at}.from")
        output = tree.get("output")
        if output is not None and output not in self._commands[run]:
            makes = ", ".join(self._commands[run])
            self._refuse(f"{at}.output", output, f"rlpost {run} makes: {makes}")
        gates = tree.get("gate", [])
        gates = [gates] if isinstance(gates, str) else gates
        if not isinstance(gates, list):
            self._refuse(f"{at}.gate", gates, "must be a list of expressions")
        return StageSpec(
            id=self._id(tree["id"], f"{at}.id"),
            run=run,
            start=start,
            prune=prune,
            teacher=None if "teacher" not in tree else self._id(tree["teacher"], f"{at}.teacher"),
            output=output or self._commands[run][0],
            data=self._data(tree.get("data", {}), f"{at}.data"),
            options=self._options(tree.get("set", {}), f"{at}.set"),
            gates=tuple(
                parse_gate(self._text(each, f"{at}.gate[{n}]"), field=self._at(f"{at}.gate[{n}]"))
                for n, each in enumerate(gates)
            ),
            retry=self._retry(tree["retry"], f"{at}.retry") if "retry" in tree else None,
            on_fail=self._choice(tree["on_fail"], f"{at}.on_fail", OnFail)
            if "on_fail" in tree
            else None,
        )

    def _start(self, tree: Any, at: str) -> tuple[tuple[str, ...], Prune | None]:
        if isinstance(tree, list):
            if len(tree) < 2:
                self._refuse(at, tree, "a list merges at least two models; give one by its id")
            return tuple(self._id(each, f"{at}[{n}]") for n, each in enumerate(tree)), None
        if not isinstance(tree, dict):
            return (self._id(tree, at),), None
        self._keys(tree, at, ("prune",), ())
        prune = self._mapping(tree["prune"], f"{at}.prune")
        self._keys(prune, f"{at}.prune", ("of", "layers"), ())
        layers = prune["layers"]
        if not isinstance(layers, int) or isinstance(layers, bool) or layers < 1:
            self._refuse(f"{at}.prune.layers", layers, "must be a number of layers, from 1 on")
        of = self._id(prune["of"], f"{at}.prune.of")
        return (of,), Prune(of=of, layers=layers)

    def _suite(self, name: Any, tree: Any) -> SuiteSpec:
        at = f"gates.suites.{name}"
        self._id(name, at)
        tree = self._mapping(tree, at)
        optional = (
            "verifier", "samples", "metric", "temperature", "max_tokens", "size",
        )  # fmt: skip
        self._keys(tree, at, ("data",), optional)
        verifier, options = tree.get("verifier"), {}
        if isinstance(verifier, dict):
            self._keys(verifier, f"{at}.verifier", ("kind",), tuple(verifier))
            options = {k: v for k, v in verifier.items() if k != "kind"}
            verifier = verifier["kind"]
        samples = self._whole(tree.get("samples", 1), f"{at}.samples", 10**4)
        metric = self._text(tree.get("metric", "accuracy"), f"{at}.metric")
        if not _METRIC.fullmatch(metric):
            self._refuse(f"{at}.metric", metric, "must be accuracy, pass@K or best@K")
        temperature = tree.get("temperature")
        suite = SuiteSpec(
            name=name,
            data=self._text(tree["data"], f"{at}.data"),
            verifier=None if verifier is None else self._text(verifier, f"{at}.verifier"),
            verifier_options=options,
            samples=samples,
            metric=metric,
            temperature=None
            if temperature is None
            else self._number(temperature, f"{at}.temperature", 0, 2),
            max_tokens=self._whole(tree.get("max_tokens", 512), f"{at}.max_tokens", 10**7),
            size=None if "size" not in tree else self._whole(tree["size"], f"{at}.size", 10**9),
        )
        if suite.k is not None and suite.k > samples:
            self._refuse(f"{at}.metric", metric, f"needs samples={suite.k} or more, got {samples}")
        return suite

    def _data(self, tree: Any, at: str) -> dict[str, Any]:
        """Read where rows come from; ``train`` may be a list, and ``replay`` a share of it."""
        data: dict[str, Any] = self._mapping(tree, at)
        if "replay" in data:
            replay = self._mapping(data["replay"], f"{at}.replay")
            self._keys(replay, f"{at}.replay", ("source", "fraction"), ())
            self._text(replay["source"], f"{at}.replay.source")
            self._number(replay["fraction"], f"{at}.replay.fraction", 1e-6, 0.999999)
            if "train" not in data:
                self._refuse(f"{at}.replay", replay, "is mixed into train, and there is none")
        train = data.get("train")
        if isinstance(train, list):
            if not train:
                self._refuse(f"{at}.train", train, "must name at least one source")
            for number, each in enumerate(train):
                self._text(each, f"{at}.train[{number}]")
        return data

    def _retry(self, tree: Any, at: str) -> Retry:
        tree = self._mapping(tree, at)
        self._keys(tree, at, ("times", "set"), ())
        times = self._whole(tree["times"], f"{at}.times", MAX_RETRIES)
        changes = self._options(tree["set"], f"{at}.set")
        if not changes:
            self._refuse(f"{at}.set", {}, "must change something: the same settings fail again")
        for name, value in changes.items():
            if isinstance(value, str) and value.startswith("*"):
                try:
                    factor = float(value[1:])
                except ValueError:
                    factor = math.nan
                if not (math.isfinite(factor) and factor != 1):
                    self._refuse(f"{at}.set.{name}", value, 'must be a factor such as "*0.5"')
        return Retry(times=times, changes=changes)

    def _options(self, tree: Any, at: str) -> dict[str, Any]:
        """Read options of a stage: dotted paths, or nested; the leaves by their dotted paths."""
        found: dict[str, Any] = {}
        for key, value in self._mapping(tree, at).items():
            if isinstance(value, dict) and value:
                inner = self._options(value, f"{at}.{key}")
                below = {f"{key}.{name}": each for name, each in inner.items()}
            else:
                below = {key: value}
            for name, each in below.items():
                if name in found:
                    self._refuse(f"{at}.{name}", each, "is given twice; remove one")
                if name.lstrip("+") in _OWN:
                    self._refuse(f"{at}.{name}", each, f"is set by {_OWN[name.lstrip('+')]}")
                found[name] = each
        return found

    def _publish(self, tree: Any) -> str | None:
        if tree is None:
            return None
        tree = self._mapping(tree, "publish")
        self._keys(tree, "publish", ("from",), ("card", "push_to_hub"))
        if tree.get("card", True) is not True:
            self._refuse("publish.card", tree["card"], "every model has a card; leave it out")
        if tree.get("push_to_hub", False) is not False:
            self._refuse(
                "publish.push_to_hub",
                tree["push_to_hub"],
                "nothing is uploaded; use `hf upload` with the directory printed at the end",
            )
        return self._id(tree["from"], "publish.from")

    def _id(self, value: Any, at: str) -> str:
        if not isinstance(value, str) or not _ID.fullmatch(value) or keyword.iskeyword(value):
            self._refuse(
                at,
                value,
                "must be a name of letters, digits and _, at most 64, and no word of Python",
            )
        return str(value)

    def _text(self, value: Any, at: str) -> str:
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            self._refuse(at, value, "must be text; in YAML quote what looks like a number")
        return str(value)

    def _whole(self, value: Any, at: str, most: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            self._refuse(at, value, f"must be a whole number from 1 to {most}")
        return int(value)

    def _number(self, value: Any, at: str, low: float, high: float) -> float:
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        if not plain or not low <= value <= high:
            self._refuse(at, value, f"must be a number in [{low:g}, {high:g}]")
        return float(value)

    def _choice(self, value: Any, at: str, kind: type[E]) -> E:
        names = [each.value for each in kind]
        if value not in names:
            self._unknown(at, value, "choice", names)
        return kind(value)

    def _mapping(self, value: Any, at: str) -> dict[str, Any]:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            self._refuse(at, value, "must be keys with values")
        return dict(value)

    def _keys(
        self, tree: Mapping[str, Any], at: str, needed: Sequence[str], optional: Sequence[str]
    ) -> None:
        prefix = f"{at}." if at else ""
        for key in tree:
            if key not in (*needed, *optional):
                self._unknown(f"{prefix}{key}", key, "key", (*needed, *optional))
        for key in needed:
            if tree.get(key) is None:
                raise UserError(f"{self._at(prefix + key)} is missing; every {_thing(at)} has one")

    def _unknown(
        self, at: str, value: Any, what: str, known: Collection[str], *, within: str = ""
    ) -> None:
        close = difflib.get_close_matches(str(value), known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        there = f"there are: {', '.join(known)}" if known else "there are none"
        inside = f" in {within!a:.100}" if within else ""
        raise UserError(f"{self._at(at)}: there is no {what} {value!a:.60}{inside}; {hint}{there}")

    def _refuse(self, at: str, value: Any, rule: str) -> None:
        raise UserError(f"{self._at(at)}: got {value!r:.100}: {rule}")

    def _at(self, field: str) -> str:
        return f"{self._path}: {field}"


def _thing(at: str) -> str:
    if not at:
        return "pipeline"
    return "stage" if re.fullmatch(r"stages\[\d+\]", at) else "such part"
