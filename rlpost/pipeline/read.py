"""A pipeline's file -> records.

Owns the keys of the file and names that must exist. Refuses to own those of a stage
(read_stage.py), the order of stages (graph.py) and YAML (yaml_file.py). Invariant: a key that is
not known, a value of another kind and a name that would hide another one are refused with the
field, the value and the way out.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlpost.errors import UserError
from rlpost.pipeline.fields import Fields
from rlpost.pipeline.gate import Gate
from rlpost.pipeline.read_stage import StageReader
from rlpost.pipeline.spec import BASE, OnFail, PipelineSpec, SuiteSpec
from rlpost.pipeline.yaml_file import read_tree

_METRIC = re.compile(r"accuracy|(pass|best)@[1-9]\d{0,3}", re.ASCII)


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
    tree = read_tree(path)
    return _Reader(str(path), commands).pipeline(tree)


def read_name(path: Path) -> str | None:
    """Return the ``name`` of a file; None: it has none, or cannot be read."""
    try:
        name = read_tree(path).get("name")
    except UserError:
        return None
    return name if isinstance(name, str) else None


class _Reader:
    """Reads one file; ``at`` and ``field`` in its functions are places in it."""

    def __init__(self, path: str, commands: Mapping[str, Sequence[str]]) -> None:
        self._fields = Fields(path)
        self._stages = StageReader(self._fields, commands)

    def pipeline(self, tree: dict[str, Any]) -> PipelineSpec:
        self._fields.keys(tree, "", ("name", "base", "stages"), ("gates", "common", "publish"))
        gates = self._fields.mapping(tree.get("gates", {}), "gates")
        self._fields.keys(gates, "gates", (), ("suites", "test", "confidence", "on_fail"))
        if gates.get("test", "paired_bootstrap") != "paired_bootstrap":
            self._fields.refuse("gates.test", gates["test"], "must be paired_bootstrap")
        suites = self._fields.mapping(gates.get("suites", {}), "gates.suites")
        base = self._fields.mapping(tree["base"], "base")
        self._fields.keys(base, "base", ("path",), ())
        stages = tree["stages"]
        if not isinstance(stages, list) or not stages:
            self._fields.refuse("stages", stages, "must be a list of stages")
        spec = PipelineSpec(
            name=self._fields.text(tree["name"], "name"),
            base=self._fields.text(base["path"], "base.path"),
            stages=tuple(self._stages.read(each, f"stages[{n}]") for n, each in enumerate(stages)),
            suites={name: self._suite(name, each) for name, each in suites.items()},
            confidence=self._fields.number(
                gates.get("confidence", 0.95), "gates.confidence", 0.5, 0.9999
            ),
            on_fail=self._fields.choice(gates.get("on_fail", "stop"), "gates.on_fail", OnFail),
            common={
                command: self._fields.options(options, f"common.{command}")
                for command, options in self._fields.mapping(
                    tree.get("common", {}), "common"
                ).items()
            },
            publish=self._publish(tree.get("publish")),
        )
        self._check_names(spec)
        return spec

    def _check_names(self, spec: PipelineSpec) -> None:
        """Refuse an id that is taken, and names in gates and elsewhere that do not exist.

        An id names a directory, and some file systems do not tell upper from lower case.
        """
        ids = [stage.id for stage in spec.stages]
        folded = [each.casefold() for each in ids]
        for number, stage in enumerate(spec.stages):
            at = f"stages[{number}]"
            if folded[number] in folded[:number]:
                self._fields.refuse(
                    f"{at}.id",
                    stage.id,
                    "is the id of another stage, in upper or lower case; choose another",
                )
            if folded[number] == BASE:
                self._fields.refuse(f"{at}.id", BASE, "is the model that all start from; rename it")
            for place, name in stage.references():
                if name not in (BASE, *ids):
                    self._fields.unknown(f"{at}.{place}", name, "stage", (BASE, *ids))
                if name == BASE and place in ("data", "set"):
                    self._fields.refuse(
                        f"{at}.{place}", "stage:base", "base is no stage; give its path"
                    )
            for gate in stage.gates:
                self._check_gate(gate, f"{at}.gate", spec)
        commands = {each.run for each in spec.stages} | ({"evaluate"} if spec.suites else set())
        for command in spec.common:
            if command not in commands:
                self._fields.unknown(
                    f"common.{command}", command, "stage that runs", sorted(commands)
                )
        if spec.publish is not None and spec.publish not in ids:
            self._fields.unknown("publish.from", spec.publish, "stage", ids)

    def _check_gate(self, gate: Gate, field: str, spec: PipelineSpec) -> None:
        for suite in gate.suites():
            if suite not in spec.suites:
                self._fields.unknown(field, suite, "suite", spec.suites, within=gate.text)
        for each in gate.leaves():
            stage = getattr(each, "stage", None)
            names = [BASE, *(each.id for each in spec.stages)]
            if stage is not None and stage not in names:
                self._fields.unknown(field, stage, "stage", names, within=gate.text)

    def _suite(self, name: Any, tree: Any) -> SuiteSpec:
        at = f"gates.suites.{name}"
        self._fields.id(name, at)
        tree = self._fields.mapping(tree, at)
        optional = (
            "verifier", "samples", "metric", "temperature", "max_tokens", "size",
        )  # fmt: skip
        self._fields.keys(tree, at, ("data",), optional)
        verifier, options = tree.get("verifier"), {}
        if isinstance(verifier, dict):
            self._fields.keys(verifier, f"{at}.verifier", ("kind",), tuple(verifier))
            options = {k: v for k, v in verifier.items() if k != "kind"}
            verifier = verifier["kind"]
        samples = self._fields.whole(tree.get("samples", 1), f"{at}.samples", 10**4)
        metric = self._fields.text(tree.get("metric", "accuracy"), f"{at}.metric")
        if not _METRIC.fullmatch(metric):
            self._fields.refuse(f"{at}.metric", metric, "must be accuracy, pass@K or best@K")
        temperature = tree.get("temperature")
        suite = SuiteSpec(
            name=name,
            data=self._fields.text(tree["data"], f"{at}.data"),
            verifier=None if verifier is None else self._fields.text(verifier, f"{at}.verifier"),
            verifier_options=options,
            samples=samples,
            metric=metric,
            temperature=None
            if temperature is None
            else self._fields.number(temperature, f"{at}.temperature", 0, 2),
            max_tokens=self._fields.whole(tree.get("max_tokens", 512), f"{at}.max_tokens", 10**7),
            size=None
            if "size" not in tree
            else self._fields.whole(tree["size"], f"{at}.size", 10**9),
        )
        if suite.k is not None and suite.k > samples:
            self._fields.refuse(
                f"{at}.metric", metric, f"needs samples={suite.k} or more, got {samples}"
            )
        return suite

    def _publish(self, tree: Any) -> str | None:
        if tree is None:
            return None
        tree = self._fields.mapping(tree, "publish")
        self._fields.keys(tree, "publish", ("from",), ("card", "push_to_hub"))
        if tree.get("card", True) is not True:
            self._fields.refuse(
                "publish.card", tree["card"], "every model has a card; leave it out"
            )
        if tree.get("push_to_hub", False) is not False:
            self._fields.refuse(
                "publish.push_to_hub",
                tree["push_to_hub"],
                "nothing is uploaded; use `hf upload` with the directory printed at the end",
            )
        return self._fields.id(tree["from"], "publish.from")
