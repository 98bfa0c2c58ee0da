"""Whether a stage made what it should have.

Owns the check after a stage that ended well. Invariant: an output that is not complete is never
handed on.
"""

from pathlib import Path

from rlpost.errors import RunFailed
from rlpost.models.origin import export_record


def require_result(output: Path, *, stage: str, kind: str) -> None:
    """Raises RunFailed: there is no complete model, or no row of data, in ``output``."""
    if kind == "dataset":
        if not any(output.glob("*.jsonl")):
            raise RunFailed(
                f"{stage} made no data set in {output}; rlpost evaluate makes one with selection.*"
            )
    elif export_record(output) is None:
        raise RunFailed(f"{stage} ended without a complete model in {output}")
