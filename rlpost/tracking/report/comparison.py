"""``sweep.html``: one self-contained page that compares runs and ranks them.

Owns rendering and the atomic write. Refuses to own what is read (comparison_data.py).
Invariant: a reader sees the old page or the new one.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from urllib.parse import quote

from rlpost.checkpoint.state import write_text
from rlpost.tracking.report.comparison_data import Comparison, compare
from rlpost.tracking.report.page import render_page


def write_comparison(
    path: Path, runs: Sequence[Path], *, metric: str | None = None, lowest_first: bool | None = None
) -> Path:
    """Compare ``runs`` on a page at ``path`` and return it.

    Raises:
        UserError: a path is no run, or no run has ``metric``.
        OSError: the page cannot be written.
    """
    data = compare(runs, metric=metric, lowest_first=lowest_first)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, render(data, beside=path.parent))
    return path


def render(data: Comparison, *, beside: Path) -> str:
    """Return the page as text; its links are relative to the directory ``beside``."""
    plain = asdict(data)
    page = {key: plain[key] for key in ("runs", "metric", "lowest_first", "differing", "charts")}
    for run in page["runs"]:
        if run["report"] is not None:
            run["report"] = quote(os.path.relpath(run["report"], beside.resolve()))
        run["settings"] = {k: v for k, v in run["settings"].items() if k in data.differing}
    return render_page("comparison", data=plain, page=page)
