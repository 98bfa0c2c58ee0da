"""``rlpost doctor``: what this machine has and lacks, as a table.

Owns the presentation and the exit code: 0 when the quickstart can run here, else 2. The
judgement is rlpost/doctor/checks.py.
"""

import argparse
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from rlpost.doctor.checks import Finding, Level, examine

_STYLE = {Level.OK: "green", Level.WARN: "yellow", Level.BLOCK: "bold red"}


def main(argv: list[str]) -> int:
    """Examine this machine and print the findings; return 0 or 2."""
    argparse.ArgumentParser(
        prog="rlpost doctor",
        description="Print what this machine has and lacks. Exit code 0: the quickstart can run "
        "here; 2: something it needs is lacking.",
    ).parse_args(argv)
    return report(list(examine()), console=Console())


def report(findings: Iterable[Finding], *, console: Console) -> int:
    """Print ``findings`` and return the exit code they mean."""
    table = Table(title="rlpost doctor")
    for title in ("what", "state", "found", "what to do"):
        table.add_column(title, overflow="fold")
    lacking = []
    for finding in findings:
        if finding.level is Level.BLOCK:
            lacking.append(finding.name)
        state = f"[{_STYLE[finding.level]}]{finding.level.value}[/]"
        table.add_row(finding.name, state, finding.found, finding.advice)
    console.print(table)
    if lacking:
        console.print(f"The quickstart cannot run here; lacking: {', '.join(lacking)}.")
        return 2
    console.print("The quickstart can run here: make quickstart")
    return 0
