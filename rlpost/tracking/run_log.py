"""``run.log``: what Python's logging says during a run, in a file and not on the terminal.

Owns the handlers of the root logger while a run is open. Refuses to own what is shown to a
person (console.py). Invariant: every record from INFO on, and every Python warning, is one
entry in the file; what was set up before is put back at the end.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_ENTRY = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d+ ([A-Z]+) ([^\s:]+): (.*)")
_CHATTY = ("asyncio", "filelock", "fsspec", "httpcore", "httpx", "matplotlib", "urllib3")


@contextmanager
def run_log(path: Path, *, level: int = logging.INFO) -> Iterator[None]:
    """Send all logging to ``path`` (appended) instead of the terminal.

    Example::

        with run_log(run_dir / "run.log"):
            run(config)
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    root = logging.getLogger()
    before, before_level = list(root.handlers), root.level
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter(_FORMAT))
    chatty = {name: logging.getLogger(name).level for name in _CHATTY}
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    terminal = [each for each in before if _is_terminal(each)]
    for each in terminal:
        root.removeHandler(each)
    root.addHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        handler.close()
        for each in terminal:
            root.addHandler(each)
        root.setLevel(before_level)
        for name, old in chatty.items():
            logging.getLogger(name).setLevel(old)


def read_warnings(path: Path) -> list[tuple[str, str, str]]:
    """Return (time, level, message) of every warning and error in a run's log."""
    if not path.exists():
        return []
    found = []
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            match = _ENTRY.fullmatch(line.rstrip("\n"))
            if match and match[2] in ("WARNING", "ERROR", "CRITICAL"):
                found.append((match[1], match[2].lower(), match[4]))
    return found


def _is_terminal(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.StreamHandler) and not isinstance(
        handler, logging.FileHandler
    )
