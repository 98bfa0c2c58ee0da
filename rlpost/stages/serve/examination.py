"""The examination of adapters in a process of its own: checks, plain peft, and a payload.

Owns the process and what passes between it and the server. Refuses to own the checks (servable.py)
and the decision on the engine (proof.py). Invariants: the server reads no adapter itself, so that
its answers go on meanwhile and a file that is damaged, or huge, ends this process alone; what is
loaded into the engine is a private copy of what was checked; the process ends with the server.

``python -m rlpost.stages.serve.examination SCRATCH`` reads ``task.json`` there and writes
``findings.json``.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlpost.child_processes import ends_with_us
from rlpost.errors import InfrastructureError, UserError

_TASK, _FINDINGS = "task.json", "findings.json"
_REFUSED = 2  # exit code: an adapter was refused


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An adapter to be examined.

    Example: ``Candidate(number=3, place="runs/math/export", field="adapters.math")``
    """

    number: int  # the engine's id
    place: str
    field: str  # what an error calls it


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is examined, on which base."""

    base: str  # directory of the model
    base_name: str
    template: str | None  # text of the chat template; None: the base's own
    rank: int  # the largest that the engine holds
    longest: int  # tokens that it reads
    dtype: str  # in which it computes
    candidates: tuple[Candidate, ...]
    quantized: bool = False  # whether the engine does so in fewer bits


@dataclass(frozen=True, kw_only=True)
class Examined:
    """What was found of one adapter that passed."""

    number: int
    about: Mapping[str, Any]
    digest: str  # of its weights
    locator: Mapping[str, Any]  # of the payload, as plain data
    sequences: Sequence[Sequence[int]]  # of the probe, as token ids
    wanted: Sequence[Sequence[float]]  # log-probs of plain peft
    change: float  # see ``proof.require_change``


def command(scratch: Path, task: Task) -> list[str]:
    """Write the task into ``scratch`` and return the command of the process.

    ``-P``: a file that lies where the server was started is not imported for a library.
    """
    (scratch / _TASK).write_text(json.dumps(asdict(task)), encoding="utf-8")
    return [sys.executable, "-P", "-m", "rlpost.stages.serve.examination", str(scratch)]


def environment() -> dict[str, str]:
    """Return the environment of the process, which leaves GPUs to the engine."""
    return {**os.environ, "CUDA_VISIBLE_DEVICES": ""}


def examine(scratch: Path, task: Task, *, timeout_s: float) -> list[Examined]:
    """Examine adapters and wait for it.

    Raises:
        UserError: one is refused.
        InfrastructureError: the process failed, or took too long.
    """
    try:
        done = subprocess.run(
            command(scratch, task),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            env=environment(),
            preexec_fn=ends_with_us(),
        )
    except subprocess.TimeoutExpired as error:
        raise too_slow(timeout_s) from error
    return findings(scratch, code=done.returncode, said=done.stdout)


def too_slow(timeout_s: float) -> InfrastructureError:
    """Return the error of an examination that was given up."""
    return InfrastructureError(
        f"adapters were not examined in serve.load_timeout_s={timeout_s:g} s; raise it, or see "
        "what keeps the machine busy"
    )


def findings(scratch: Path, *, code: int, said: bytes) -> list[Examined]:
    """Return what a process found that ended with ``code`` after it said ``said``.

    Raises:
        UserError: an adapter is refused.
        InfrastructureError: the process failed.
    """
    file = scratch / _FINDINGS
    if code == _REFUSED and file.is_file():
        raise UserError(json.loads(file.read_text())["refused"])
    if code != 0:
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        last = said.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise InfrastructureError(
            f"the process that examines adapters failed ({how}): {last:.300}; it loads the base "
            "once, so it may need more memory than is free"
        )
    return [Examined(**each) for each in json.loads(file.read_text())["found"]]


def main(scratch: Path) -> int:
    """Examine what the task in ``scratch`` says; return the exit code."""
    fields = json.loads((scratch / _TASK).read_text())
    candidates = tuple(Candidate(**each) for each in fields.pop("candidates"))
    task = Task(candidates=candidates, **fields)
    try:
        found = [asdict(each) for each in _examined(task, scratch)]
        answer, code = {"found": found}, 0
    except UserError as error:
        answer, code = {"refused": str(error)}, _REFUSED
    (scratch / _FINDINGS).write_text(json.dumps(answer), encoding="utf-8")
    return code


def _examined(task: Task, scratch: Path) -> Iterator[Examined]:
    import torch

    from rlpost.merging.plain_peft import load_plain, sequence_logprobs, with_adapter
    from rlpost.stages.serve.base import ServedBase
    from rlpost.stages.serve.proof import probe_sequences, require_change
    from rlpost.stages.serve.servable import read_servable

    base = ServedBase.read(task.base, name=task.base_name, template=task.template)
    read = [
        (each, read_servable(Path(each.place), base=base, rank=task.rank, field=each.field))
        for each in task.candidates
    ]
    sequences = probe_sequences(base.tokenizer, longest=task.longest)
    model = load_plain(base.directory.path, dtype=getattr(torch, task.dtype))
    without = [each.tolist() for each in sequence_logprobs(model, sequences)]
    for candidate, servable in read:
        adapted = with_adapter(model, servable.directory.path)
        wanted = [each.tolist() for each in sequence_logprobs(adapted, sequences)]
        model = adapted.unload()
        yield Examined(
            number=candidate.number,
            about=servable.about,
            digest=servable.directory.fingerprint(),
            locator=_payload(candidate, servable, base=base, scratch=scratch),
            sequences=sequences,
            wanted=wanted,
            change=require_change(without, wanted, field=candidate.field),
        )


def _payload(candidate: Candidate, servable: Any, *, base: Any, scratch: Path) -> dict[str, Any]:
    """Write what the engine fetches, and return where it is."""
    from rlpost.weights.adapter import refuse_other_adapter
    from rlpost.weights.manifest import PushManifest
    from rlpost.weights.publisher import WeightPublisher
    from rlpost.weights.transports.choice import Senders
    from rlpost.weights.transports.filesystem import FilesystemSender

    senders = Senders(staged=FilesystemSender(root=scratch / "payloads"))
    publisher = WeightPublisher(lambda: _Plain(servable.plain), senders=senders)
    locator = publisher.stage(candidate.number, seats=[], written=True)
    assert locator is not None
    refuse_other_adapter(PushManifest.from_dict(locator.manifest), base.shapes)
    return asdict(locator)


class _Plain:
    """A plain LoRA in memory; see ``publisher.ServedWeights``."""

    merge_error = None

    def __init__(self, adapter: Any) -> None:
        self._tensors = adapter.tensors
        self.adapter = adapter.config

    def shapes(self) -> list[Any]:
        return [(name, each.dtype, tuple(each.shape)) for name, each in self._tensors.items()]

    def tensors(self) -> Iterator[tuple[str, Any]]:
        return iter(self._tensors.items())


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
