"""What an examination found, as a table for the terminal."""

from collections.abc import Iterable

from rich.table import Table

from rlpost.doctor.checks import Finding, Level

_STYLE = {Level.OK: "green", Level.WARN: "yellow", Level.BLOCK: "bold red"}


def table(findings: Iterable[Finding], *, title: str) -> Table:
    """Return ``findings``, one a row."""
    rows = Table(title=title)
    for column in ("what", "state", "found", "what to do"):
        rows.add_column(column, overflow="fold")
    for finding in findings:
        state = f"[{_STYLE[finding.level]}]{finding.level.value}[/]"
        rows.add_row(finding.name, state, finding.found, finding.advice)
    return rows
