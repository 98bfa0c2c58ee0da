"""Interpreters whose SGLang is the stand-in of ``sglang_stub/``."""

import sys
from pathlib import Path

STUB = Path(__file__).parent / "sglang_stub"


def interpreter(directory: Path) -> str:
    """Write a command that runs this Python with the stand-in; return its path."""
    file = directory / "python"
    file.write_text(f'#!/bin/sh\nPYTHONPATH="{STUB}" exec "{sys.executable}" "$@"\n')
    file.chmod(0o755)
    return str(file)
