"""``report.html``: one self-contained page about a run, built from its files.

Owns when it is written, atomically. Refuses to own what is read (report_data.py) and how a
page is put together (page.py). Invariant: a reader sees the old page or the new one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rlpost.checkpoint.state import write_text
from rlpost.control.learning_signs import PATIENCE
from rlpost.tracking.boundary import attempt
from rlpost.tracking.heldout import heldout_result
from rlpost.tracking.report.page import render_page
from rlpost.tracking.report.report_data import report_data
from rlpost.tracking.sample import SampleRecord
from rlpost.tracking.tracker import RunStatus


def write_report(run_dir: Path) -> Path:
    """Build ``report.html`` from the files of ``run_dir`` and return its path.

    Raises:
        OSError: a file cannot be read or the page cannot be written.
    """
    path = run_dir / "report.html"
    write_text(path, render(run_dir))
    return path


def render(run_dir: Path) -> str:
    """Return the page as text."""
    data = report_data(run_dir)
    page = {
        "steps": data.steps,
        "metrics": data.metrics,
        "charts": [chart for section in data.sections for chart in section["charts"]],
        "samples": data.samples,
        "timeline": data.timeline,
    }
    return render_page("report", data=asdict(data), page=page)


class ReportTracker:
    """Tracker that rebuilds the page at the first steps, at every evaluation and at the end."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Rebuild the page after the first steps and after every evaluation."""
        if step <= PATIENCE or heldout_result(metrics) is not None:
            self._write()

    def log_samples(self, step: int, samples: Sequence[SampleRecord]) -> None:
        """Do nothing: samples are read from rollouts/ when the page is built."""

    def rewind(self, step: int) -> None:
        """Rebuild the page, if there is one, without the later steps."""
        if (self.run_dir / "report.html").exists():
            self._write()

    def close(self, status: RunStatus) -> None:
        """Build the final page."""
        self._write()

    def _write(self) -> None:
        attempt("writing report.html", lambda: write_report(self.run_dir))
