"""``lineage.json``: what every stage of a pipeline was made of, by hashes.

Owns the record and the question whether a stage that is done may be kept. Refuses to own what a
stage does. Invariants: a stage is recorded before it starts and when it is done; what was made of
other inputs, or with other options, is refused and never mixed with the rest; the record holds no
times and no paths of the machine, so equal pipelines have equal records.
"""

import json
import os
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from blake3 import blake3

import rlpost
from rlpost.checkpoint.manifest import hash_file
from rlpost.checkpoint.state import read_json, write_json
from rlpost.errors import UserError
from rlpost.stages.pipeline.places import Places
from rlpost.tracking.boundary import own_record

STAGES, SCORES = "stages", "scores"  # its parts
_HEAD = ("pipeline", "base", "code")
# Of an export: they tell of the run, its costs among others, and are no part of the model.
_TOLD = ("README.md", "rlpost.json")


class Lineage:
    """The record of one pipeline, kept on disk.

    Example::

        lineage.begin("stages", "rl1", recipe)
        lineage.finish("stages", "rl1", result={"path": "stages/rl1/export", "hash": "9f2c..."})
    """

    def __init__(self, places: Places, *, head: Mapping[str, Any]) -> None:
        """Read what is there; ``head`` says what the pipeline is."""
        self._places = places
        kept = read_json(places.lineage) if places.lineage.exists() else {}
        self._tree: dict[str, Any] = {
            **head,
            "stages": dict(kept.get("stages", {})),
            "scores": dict(kept.get("scores", {})),
            **({"published": kept["published"]} if "published" in kept else {}),
        }

    def record(self, kind: str, name: str) -> dict[str, Any] | None:
        """Return the record of a run below ``stages`` or ``scores``; None: it never began."""
        found: dict[str, Any] | None = self._tree[kind].get(name)
        return found

    def is_done(self, kind: str, name: str, recipe: Mapping[str, Any]) -> bool:
        """Whether a run is complete and was made in this way.

        Raises:
            UserError: it was made in another way; says what changed, and how to run it again.
        """
        kept = self.record(kind, name)
        if kept is None:
            return False
        if kept["recipe"] == recipe:
            return bool(kept["state"] == "done")
        changed = _changes(kept["recipe"], recipe)
        place = self._places.root / kind / name
        raise UserError(
            f"{place} was made in another way: {'; '.join(changed[:4])}"
            f"{' ...' if len(changed) > 4 else ''}. Move it away to run it again (mv {place} "
            "SOMEWHERE), undo the change, or choose another run.name"
        )

    def begin(self, kind: str, name: str, recipe: Mapping[str, Any]) -> None:
        """Record that a run starts, or goes on."""
        settings = {name: recipe[name] for name in ("command", "options")}
        self._tree[kind][name] = {
            "state": "started",
            "recipe": dict(recipe),
            "config": _digest(settings),
            "code": self._tree["code"]["hash"],
        }
        self.save()

    def set_aside_stale(self, name: str, recipe: Mapping[str, Any]) -> Path | None:
        """Rename the directory of scores that are those of another model, and forget them.

        Returns:
            Where they lie; None: there are none, or the model is the same.
        """
        kept = self.record(SCORES, name)
        if kept is None or _model_of(kept["recipe"]) == _model_of(recipe):
            return None
        place = self._places.root / SCORES / name
        number = next(n for n in count(1) if not place.with_name(f"{place.name}.{n}").exists())
        aside = place.with_name(f"{place.name}.{number}")
        place.rename(aside)
        del self._tree[SCORES][name]
        self.save()
        return aside

    def forget_moved(self, kind: str, name: str) -> None:
        """Drop the record of a run whose directory was moved away."""
        if not (self._places.root / kind / name).exists():
            self._tree[kind].pop(name, None)

    def finish(self, kind: str, name: str, **known: Any) -> None:
        """Record that a run is complete, and what is known of it."""
        self._tree[kind][name] |= {"state": "done", **known}
        self.save()

    def attempts(self, stages: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return the records of all attempts of ``stages``, in their order."""
        order = {name: number for number, name in enumerate(stages)}
        parts = {name: name.partition(".") for name in self._tree[STAGES]}
        names = [name for name, (stage, _, _) in parts.items() if stage in order]
        names.sort(key=lambda name: (order[parts[name][0]], int(parts[name][2] or 1)))
        return {name: self._tree[STAGES][name] for name in names}

    def chain(self, stages: Sequence[str]) -> dict[str, Any]:
        """Return what is known of the results of ``stages``, and of the pipeline."""
        kept = {
            name: {"outcome": "", "gates": [], **record}
            for name, record in self.attempts(stages).items()
            if "result" in record
        }
        return {name: self._tree[name] for name in _HEAD} | {STAGES: kept}

    def publish(self, record: Mapping[str, Any]) -> None:
        """Record what the result of the pipeline is."""
        self._tree["published"] = dict(record)
        self.save()

    def save(self) -> None:
        """Write ``lineage.json``.

        Raises:
            RunFailed: it cannot be written.
        """
        with own_record(self._places.lineage):
            write_json(self._places.lineage, self._tree)

    @property
    def tree(self) -> Mapping[str, Any]:
        return self._tree


def recipe_of(
    command: str, words: Sequence[str], *, inputs: Mapping[str, str], root: Path
) -> dict[str, Any]:
    """Return everything that decides what a stage makes.

    Args:
        command: of the stage.
        words: its overrides.
        inputs: what it is made of -> hash.
        root: the pipeline's directory, which is no part of the recipe.
    """
    kept = sorted(word for word in words if word.partition("=")[0] not in _FREE)
    options = [word.replace(str(root), ".") for word in kept]
    return {"command": command, "options": options, "inputs": dict(sorted(inputs.items()))}


_FREE = ("run.dir", "run.name", "resume", "cluster.address")


def _digest(tree: Any) -> str:
    return blake3(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:32]


def _model_of(recipe: Mapping[str, Any]) -> dict[str, str]:
    """Return the hash of the model that was scored."""
    return {key: each for key, each in recipe["inputs"].items() if key.startswith("model ")}


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    if before["command"] != now["command"]:
        return [f"it was rlpost {before['command']}, now rlpost {now['command']}"]
    options = [dict(word.split("=", 1) for word in each["options"]) for each in (before, now)]
    found = [
        f"{key} was {options[0].get(key, 'not given')}, now {options[1].get(key, 'not given')}"
        for key in sorted(options[0].keys() | options[1].keys())
        if options[0].get(key) != options[1].get(key)
    ]
    one, other = before["inputs"], now["inputs"]
    return found + [
        f"{name} is another one than it was"
        for name in sorted(one.keys() | other.keys())
        if one.get(name) != other.get(name)
    ]


def hash_tree(path: Path) -> str:
    """Return the hash of a file, or of what a directory holds: a model, or a data set.

    What an export tells of its run is left out.

    Raises:
        OSError: it cannot be read.
    """
    if path.is_file():
        return hash_file(path)
    digest = blake3()
    for each in sorted(each for each in path.rglob("*") if each.is_file()):
        if each.name not in _TOLD and not each.name.startswith("."):
            digest.update(f"{each.relative_to(path)} {_hash_of(each)}\n".encode())
    return digest.hexdigest()[:32]


def _hash_of(path: Path) -> str:
    return hash_file(path) if os.path.getsize(path) else ""


def code_hash() -> str:
    """Return the hash of the package's own source files."""
    package = Path(rlpost.__file__).parent
    digest = blake3()
    for each in sorted(package.rglob("*.py")):
        digest.update(f"{each.relative_to(package)}\n".encode())
        digest.update(each.read_bytes())
    return digest.hexdigest()[:32]
