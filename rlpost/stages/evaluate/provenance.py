"""``provenance.json``: which weights gave the answers of an evaluation, and what judged them.

Owns the record beside the answers and the comparison with what is there now. Refuses to own the
prompts and seeds, which each answer holds itself (job.py), and options, which config.yaml holds.
Invariant: an answer that other weights gave, or that was judged by another row or another function
file than those of now, is never scored as if it were of now. A directory without the record, which
an earlier version wrote, is scored as it is.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blake3 import blake3

from rlpost.checkpoint.state import read_json, write_json
from rlpost.errors import UserError
from rlpost.models.directory.weight_files import stored_tensors
from rlpost.models.fingerprint import fingerprint_of
from rlpost.stages.evaluate.answers_file import AnswersFile
from rlpost.stages.evaluate.job import prompts_of
from rlpost.stages.evaluate.plan import EvaluatePlan, Examinee
from rlpost.stages.sampling.judged_source import JudgedSource
from rlpost.tracking.boundary import own_record

_WAY_OUT = "restore it, move that directory away, or choose another run.name"


def provenance_of(plan: EvaluatePlan) -> dict[str, Any]:
    """Return what decides the answers and rewards of an evaluation, beside its options."""
    first = plan.examinees[0]  # both models have the same rows
    return {
        "models": {each.role: _weights(each) for each in plan.examinees},
        "judges": {each.name: _files(each) for each in plan.sources},
        "rows": {
            source.name: {
                prompt.uid: _digest([prompt.text, dict(prompt.columns)])
                for prompt in prompts_of(first, source)
            }
            for source in plan.sources
        },
    }


def require_same_provenance(path: Path, plan: EvaluatePlan, file: AnswersFile) -> None:
    """Check that the answers that are there are of the models, rows and judges of now.

    Raises:
        UserError: they are not; says what changed.
        DataError: the record is damaged.
    """
    if not path.exists():
        return
    kept, now = read_json(path), provenance_of(plan)
    examinees = {each.role: each for each in plan.examinees}
    for role, name, uid in file.items:
        for kind, key in (("models", role), ("judges", name)):
            if key in kept[kind] and key in now[kind] and kept[kind][key] != now[kind][key]:
                _refuse(path, kind, examinees[role], name)
        before, after = (each["rows"].get(name, {}).get(uid) for each in (kept, now))
        if None not in (before, after) and before != after:
            raise UserError(
                f"run.name: {file.path} has an answer to item {uid} of {name} that was judged by "
                f"other columns than its row has now; {_WAY_OUT}"
            )


def write_provenance(path: Path, plan: EvaluatePlan, file: AnswersFile) -> None:
    """Write the record, unless there are answers that an earlier version gave without one."""
    if path.exists() or not file.items:
        with own_record(path):
            write_json(path, provenance_of(plan))


def _refuse(path: Path, kind: str, examinee: Examinee, source: str) -> None:
    what = (
        f"answers of other weights than {examinee.path} has now"
        if kind == "models"
        else f"answers to {source} that were judged by another file than verifier.path names now"
    )
    raise UserError(f"run.name: {path.parent} holds {what}; {_WAY_OUT}")


def _weights(examinee: Examinee) -> dict[str, str]:
    """Return fingerprints of a model and its adapter; of one behind an endpoint none is known."""
    if examinee.generator is None:
        return {}
    tensors = stored_tensors(Path(examinee.path), field=f"{examinee.role}.path")
    found = {"model": fingerprint_of(tensors)}
    if examinee.adapter is not None:
        found["adapter"] = examinee.adapter.adapter.fingerprint()
    return found


def _files(source: JudgedSource) -> dict[str, str]:
    """Return the hashes of the files that the options of a source's verifiers name."""
    return {
        str(file): blake3(file.read_bytes()).hexdigest()
        for verifier in source.verifiers.values()
        for file in _named(getattr(verifier, "path", None))
        if file.is_file()
    }


def _named(paths: Any) -> Iterator[Path]:
    """Yield what ``FILE`` and ``FILE.py:function`` may name, of one text or a list."""
    for each in paths if isinstance(paths, list | tuple) else [paths]:
        if isinstance(each, str) and each:
            yield Path(each.rpartition(":")[0] or each).expanduser()


def _digest(value: object) -> str:
    return blake3(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
