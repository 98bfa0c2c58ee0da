"""What another process asks of a run that goes on: ``rlpost scale``.

Owns ``scale_request.json`` in the run directory. Invariant: a file that cannot be
read is no scale request.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from rlpost.bounds import check_config
from rlpost.checkpoint.state import read_json, write_json
from rlpost.errors import DataError, UserError
from rlpost.rollout.generator_config import GeneratorConfig
from rlpost.stages.run_directory import RunDirectory

log = logging.getLogger(__name__)


def requested_generators(path: Path) -> Callable[[], int | None]:
    """Return a function that says how many generators are requested; None: no request."""
    seen_s, wanted = 0.0, None

    def look() -> int | None:
        nonlocal seen_s, wanted
        try:
            changed_s = path.stat().st_mtime
        except OSError:
            return wanted
        if changed_s != seen_s:
            seen_s = changed_s
            try:
                wanted = max(1, int(read_json(path)["generators"]))
            except (DataError, KeyError, TypeError, ValueError, OverflowError) as error:
                log.warning("%s: not a scale request (%s)", path, error)
        return wanted

    return look


def request_generators(path: Path, num: int) -> None:
    """Ask the run whose directory holds ``path`` for ``num`` generators.

    Raises:
        UserError: there is no such run, or no run has so many.
    """
    check_config(GeneratorConfig(num=num), "generator")
    if not RunDirectory(root=path.parent).config.is_file():
        raise UserError(
            f"run.name: {path.parent} is no run directory, for it holds no config.yaml; give one "
            "such as runs/quickstart"
        )
    write_json(path, {"generators": num})
