"""``rlpost doctor``: what this machine has and lacks, as a table.

Owns the presentation and the exit code: 0 when the quickstart can run here, else 2. The
judgement is rlpost/doctor/checks.py.
"""

import argparse
from collections.abc import Iterable

from rich.console import Console

from rlpost.cli import doctor_node
from rlpost.cli.findings import table
from rlpost.doctor.checks import Finding, Level, examine


def main(argv: list[str]) -> int:
    """Examine this machine and print the findings; return 0 or 2."""
    if "--node" in argv:
        return doctor_node.main(argv)
    argparse.ArgumentParser(
        prog="rlpost doctor",
        description="Print what this machine has and lacks. Exit code 0: the quickstart can run "
        "here; 2: something it needs is lacking.",
        epilog="rlpost doctor --node --help: examine the nodes of a job, before it starts.",
    ).parse_args(argv)
    return report(list(examine()), console=Console())


def report(findings: Iterable[Finding], *, console: Console) -> int:
    """Print ``findings`` and return the exit code they mean."""
    findings = list(findings)
    lacking = [finding.name for finding in findings if finding.level is Level.BLOCK]
    console.print(table(findings, title="rlpost doctor"))
    if lacking:
        console.print(f"The quickstart cannot run here; lacking: {', '.join(lacking)}.")
        return 2
    console.print("The quickstart can run here: make quickstart")
    return 0
