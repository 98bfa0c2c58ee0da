"""What a person sees of a sweep: a line when a member starts and ends, a ranking, a page.

Owns the words on the terminal. Refuses to own the numbers (tracking/report/comparison_data.py).
"""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlpost.launch.sweep.sweep import Sweep
from rlpost.tracking.boundary import attempt
from rlpost.tracking.files.sweep_record import MemberRecord, MemberState

_STYLE = {
    MemberState.done: "green",
    MemberState.failed: "bold red",
    MemberState.refused: "bold red",
    MemberState.interrupted: "yellow",
}


def say_planned(sweep: Sweep, records: Sequence[MemberRecord], *, n_jobs: int) -> None:
    """Say how many members there are and where their output goes."""
    _say(Text(f"{sweep.name}: {len(records)} runs, {n_jobs} at a time; "
              f"output in {sweep.directory / 'logs'}"))  # fmt: skip


def say_started(sweep: Sweep, record: MemberRecord) -> None:
    """Say that a member runs."""
    _say(Text.assemble(("started      ", "dim"), record.name))


def say_ended(sweep: Sweep, record: MemberRecord) -> None:
    """Say how a member ended and, unless it ended well, why: on stderr."""
    state = Text.assemble((f"{record.state.value:12} ", _STYLE[record.state]), record.name)
    _say(state)
    if record.state is not MemberState.done:
        _say(Text(f"  exit code {record.exit_code}: {record.message}"), stderr=True)


def finish(sweep: Sweep) -> None:
    """Write ``sweep.html`` and print the ranking of the members."""
    from rlpost.tracking.report.comparison import write_comparison
    from rlpost.tracking.report.comparison_data import compare

    path, members = sweep.directory / "sweep.html", [sweep.directory]
    ranking = {"metric": sweep.metric, "lowest_first": sweep.lowest_first}
    page = attempt("writing sweep.html", lambda: write_comparison(path, members, **ranking))
    data = attempt("ranking the runs", lambda: compare(members, **ranking))
    if data is None:
        return
    table = Table(title=sweep.name)
    table.add_column("", justify="right")
    table.add_column("run", overflow="fold")
    table.add_column("state")
    table.add_column(data.metric or "nothing measured", justify="right")
    for place, run in enumerate(data.runs, start=1):
        value = run.final.get(data.metric) if data.metric else None
        rank = str(place) if value is not None else ""
        table.add_row(rank, Text(run.name), run.state, "" if value is None else f"{value:.4g}")
    Console().print(table)
    for caution in data.cautions:
        _say(Text(f"note: {caution}", style="yellow"))
    if page is not None:
        _say(Text(f"comparison: {page}"))


def _say(text: Text, *, stderr: bool = False) -> None:
    Console(stderr=stderr, highlight=False).print(text, soft_wrap=True)
