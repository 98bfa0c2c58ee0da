"""What is known of a model that a run made: base, data, results, cost and licence.

Owns ``rlpost.json`` of an export and what it tells of the models before. Refuses to own the text of
the card (card.py). Invariant: what is not known is None, or absent, and never guessed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rlpost import __version__
from rlpost.errors import UserError
from rlpost.models import embedded
from rlpost.models.locate import locate_model

RECORD = "rlpost.json"


@dataclass(frozen=True, kw_only=True)
class DataUsed:
    """One source that a run read.

    Example: ``DataUsed(split="train", name="arithmetic", source="arithmetic", num_rows=1000,
    fingerprint="9f2c...")``
    """

    split: str  # train or heldout
    name: str
    source: str  # as the user called it
    num_rows: int  # that were used
    fingerprint: str  # of their content, wherever the files are
    hub_id: str | None = None  # of a data set on the hub


@dataclass(frozen=True, kw_only=True)
class ModelUsed:
    """A model that a merge read.

    Example: ``ModelUsed(name="runs/a/export", role="merged", fingerprint="3f1a...")``
    """

    name: str  # as the user called it
    role: str  # base, merged or adapter
    fingerprint: str  # of its weights, wherever they are


@dataclass(frozen=True, kw_only=True)
class ModelOrigin:
    """Where an exported model comes from."""

    base: str  # the model that the run started from, as the user called it
    stage: str
    run: str
    step: int  # of the weights
    run_step: int  # the last one of the run
    which: str = "last"  # weights that were asked for
    how: str = ""  # what was done to the base; empty: so many steps of the stage
    config_hash: str = ""  # of every setting that decides the result
    data: Sequence[DataUsed] = ()
    models: Sequence[ModelUsed] = ()  # that were merged
    results: Mapping[str, float] = field(default_factory=dict)  # metric -> of these weights
    cost: Mapping[str, float] = field(default_factory=dict)  # of the run until the export


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """What the base's own files tell."""

    licence: Mapping[str, str]  # license, license_name, license_link; empty: the card names none
    lineage: list[dict[str, Any]]  # what runs made before, the latest first
    hub_id: str | None  # of the base, or of what it was made from


def read_base(base: str) -> BaseModel:
    """Return what is known of the model that the user called ``base``."""
    if base == embedded.NAME:
        return BaseModel(licence={"license": embedded.LICENCE}, lineage=[], hub_id=embedded.HUB_ID)
    try:
        directory = Path(locate_model(base))
    except UserError:  # it was moved away while the run went on
        directory = Path(base)
    record = export_record(directory)
    lineage = [] if record is None else [_entry(record), *record.get("lineage", [])]
    names = [] if record is None else [record["base"], *(each["base"] for each in lineage)]
    hub_id = next((name for name in [base, *names] if _is_hub_id(name)), None)
    if hub_id is None and embedded.NAME in names:
        hub_id = embedded.HUB_ID
    return BaseModel(licence=_licence(directory), lineage=lineage, hub_id=hub_id)


def write_origin(directory: Path, origin: ModelOrigin, base: BaseModel) -> None:
    """Write ``rlpost.json``."""
    record = {
        **asdict(origin),
        "data": [asdict(each) for each in origin.data],
        "models": [asdict(each) for each in origin.models],
        "code_version": __version__,
        "licence": base.licence.get("license"),
        "lineage": base.lineage,
    }
    (directory / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def export_record(directory: Path) -> dict[str, Any] | None:
    """Return ``rlpost.json`` of an export; None: ``directory`` holds no complete export.

    ``step`` is that of the weights, ``run_step`` the last one of the run that wrote it.
    """
    record = read_plain(directory / RECORD)
    step = record.get("step")
    if not isinstance(step, int) or not isinstance(record.get("base"), str):
        return None
    return {"run_step": step, "which": "last", **record}


def read_plain(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; empty: there is none."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return plain if isinstance(plain, dict) else {}


def _entry(record: Mapping[str, Any]) -> dict[str, Any]:
    names = ("base", "stage", "run", "step", "config_hash")
    return {name: record[name] for name in names if name in record}


def _is_hub_id(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(name).exists()


def _licence(directory: Path) -> dict[str, str]:
    from huggingface_hub import ModelCard

    card = directory / "README.md"
    if not card.is_file():
        return {}
    try:
        known = ModelCard.load(card).data.to_dict()
    except (OSError, ValueError, AttributeError, yaml.YAMLError):  # somebody else's file
        return {}
    names = ("license", "license_name", "license_link")
    return {name: str(known[name]) for name in names if isinstance(known.get(name), str)}
