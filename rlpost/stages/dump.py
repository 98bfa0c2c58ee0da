"""What everyone was doing, for a run that is stuck."""

import asyncio
import io
import sys
import traceback
from pathlib import Path

from rlpost.checkpoint.state import write_text
from rlpost.stages.rl.parts import RLParts


def write_dump(parts: RLParts, path: Path, *, reason: str) -> None:
    """Write the state of the control room and the stacks of all tasks and threads."""
    text = io.StringIO()
    print(reason, parts.producer.describe(), parts.fleet.describe(), sep="\n", file=text)
    print(f"ledger: {parts.ledger.counts}", file=text)
    for task in asyncio.all_tasks():
        print(f"\ntask {task.get_name()}", file=text)
        task.print_stack(file=text)
    for ident, frame in sys._current_frames().items():
        print(f"\nthread {ident}", file=text)
        traceback.print_stack(frame, file=text)
    write_text(path, text.getvalue())
