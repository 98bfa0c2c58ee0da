"""Run the suites of matrix.toml, and refuse a release that they were not run for.

Owns docs/matrix.json: for each suite the last result and a hash of the sources it ran with.
Invariant: a result is of one state of its sources; if they change during a run, none is written.

    make matrix                          # those that are stale
    make matrix SUITES="chaos network"   # these
    make release-check                   # says which are stale; runs nothing
"""

import argparse
import datetime
import hashlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True)
class Suite:
    """One entry of matrix.toml."""

    name: str
    what: str
    command: str
    sources: list[str]
    minutes: int  # on two cores, for the person who waits

    def sources_hash(self, root: Path) -> str:
        """Hash the names and contents of all files of ``sources`` that git tracks.

        Raises:
            SystemExit: a source names no such file.
        """
        total = hashlib.sha256()
        for source in self.sources:
            listed = ["git", "ls-files", "-z", "--", source]
            found = subprocess.run(listed, cwd=root, capture_output=True, text=True, check=True)
            if not found.stdout:
                raise SystemExit(f"matrix.toml: {self.name}.sources: git tracks no {source}")
            for name in sorted(filter(None, found.stdout.split("\0"))):
                file = root / name
                content = hashlib.sha256(file.read_bytes() if file.exists() else b"").hexdigest()
                total.update(f"{name}\0{content}\n".encode())
        return total.hexdigest()


class Matrix:
    """The suites of a checkout and their results."""

    def __init__(self, root: Path) -> None:
        self.root = root
        entries = tomllib.loads((root / "scripts" / "matrix.toml").read_text())
        self.suites = {name: Suite(name=name, **entry) for name, entry in entries.items()}
        self._results = root / "docs" / "matrix.json"

    def results(self) -> dict[str, dict]:
        return json.loads(self._results.read_text())

    def staleness(self, suite: Suite) -> str | None:
        """Say why a suite has to be run before a release; None when it has not."""
        result = self.results().get(suite.name)
        if result is None:
            return "it was never run"
        if result["sources"] != suite.sources_hash(self.root):
            return f"its sources changed since it was run ({result['date']})"
        return None if result["passed"] else f"it failed with these sources ({result['date']})"

    def check(self) -> int:
        """Print each stale suite with the command that runs it; 1 if there is one."""
        stale = {s.name: why for s in self.suites.values() if (why := self.staleness(s))}
        for name, why in stale.items():
            print(f"{name}: {why}; {self.suites[name].what}")
            print(f"    make matrix SUITES={name}    # about {self.suites[name].minutes} minutes")
        fresh = len(self.suites) - len(stale)
        print(f"{fresh} of {len(self.suites)} suites passed with these sources")
        return int(bool(stale))

    def run(self, suite: Suite) -> bool:
        """Run a suite, show what it prints, and write its result."""
        before, start_s = suite.sources_hash(self.root), time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f"matrix-{suite.name}-") as scratch:
            command = suite.command.format(python=shlex.quote(sys.executable), scratch=scratch)
            print(f"{suite.name}: {suite.what}\n    {command}", flush=True)
            passed = subprocess.run(shlex.split(command), cwd=self.root).returncode == 0
        if suite.sources_hash(self.root) != before:
            print(f"{suite.name}: its sources changed while it ran; nothing is recorded")
            return False
        result = {
            "passed": passed,
            "sources": before,
            "date": datetime.date.today().isoformat(),
            "minutes": round((time.monotonic() - start_s) / 60, 1),
            "cpus": os.cpu_count(),
        }
        results = self.results() | {suite.name: result}
        self._results.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
        print(f"{suite.name}: {'passed' if passed else 'FAILED'}", flush=True)
        return passed


def main(words: list[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("action", choices=("run", "check"))
    parser.add_argument("suites", nargs="*", help="all stale ones by default")
    args = parser.parse_args(words)
    matrix = Matrix(root)
    if args.action == "check":
        return matrix.check()
    if unknown := set(args.suites) - matrix.suites.keys():
        parser.error(f"no suites {sorted(unknown)}; matrix.toml has {sorted(matrix.suites)}")
    chosen = args.suites or [s.name for s in matrix.suites.values() if matrix.staleness(s)]
    passed = [matrix.run(matrix.suites[name]) for name in chosen]
    return int(not all(passed))


if __name__ == "__main__":
    sys.exit(main())
