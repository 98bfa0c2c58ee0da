"""What everyone was doing, for a run that is stuck."""

import asyncio
import io
import sys
import traceback
from pathlib import Path

from rlpost.checkpoint.state import write_text
from rlpost.stages.run import Run


def write_dump(run: Run, path: Path, *, reason: str) -> None:
    """Write what the parts say of themselves and the stacks of all tasks and threads."""
    text = io.StringIO()
    print(reason, *(describe() for describe in run.describes), sep="\n", file=text)
    for task in asyncio.all_tasks():
        print(f"\ntask {task.get_name()}", file=text)
        task.print_stack(file=text)
    for ident, frame in sys._current_frames().items():
        print(f"\nthread {ident}", file=text)
        traceback.print_stack(frame, file=text)
    write_text(path, text.getvalue())
