"""How ``rlpost plan`` shows where each process would run and the memory that it needs.

Owns the tables, and what does not fit. Refuses to own the arithmetic (a stage's ``estimate``).
"""

import re
from typing import Any

from rlpost.cli.plan_machines import Machines
from rlpost.models.footprint import together_bytes

GIB = 2**30


def report(
    found: Any, slots: list[Any], machines: Machines, *, notes: list[str], lacking: list[str]
) -> int:
    """Print slots and memory; return 2 when something would not fit, else 0.

    Args:
        found: the stage's estimate.
        slots: of the actors.
        machines: that are planned for.
        notes: sentences below the tables.
        lacking: what would not fit for other reasons.
    """
    from rich.console import Console

    console = Console(highlight=False)
    table = _table("memory, at the peak of each process", "node", "process", "GiB", "of which")
    full = []
    for index, node in enumerate(machines.nodes):
        here = [each for each in slots if each.bundle.node.id == node.id]
        rows = [f for each in here for f in found.of(each.actor.name)]
        rows += found.unplaced if index == 0 else []
        for name, row in _alike(rows):
            where = f"{node.name}, GPU" if row.on_gpu else node.name
            parts = ", ".join(f"{what} {size / GIB:.2f}" for what, size in row.largest())
            table.add_row(where, name, f"{row.peak_bytes / GIB:.2f}", parts)
        host = together_bytes([row for row in rows if not row.on_gpu])
        room = machines.node_bytes[node.id]
        table.add_row(node.name, "all, on the host", f"{host / GIB:.2f}", f"of {room / GIB:.1f}")
        table.add_section()
        if host > room:
            full.append(f"{node.name}: {host / GIB:.1f} of {room / GIB:.1f} GiB")
    full += full_gpus(found, slots, machines.gpu_bytes)
    console.print(_slots_table(slots), table)
    for sentence in (*found.sentences, *notes):
        console.print(sentence)
    if full:
        console.print(f"It would not fit: {'; '.join(full)}; {found.way_out}.")
    for refusal in lacking:
        console.print(f"It would not fit: {refusal}.")
    return 2 if full or lacking else 0


def _table(title: str, *columns: str) -> Any:
    from rich.table import Table

    table = Table(title=title)
    for each in columns:
        table.add_column(each, justify="right" if each in ("GiB", "s") else "left", overflow="fold")
    return table


def _alike(footprints: list[Any]) -> list[tuple[str, Any]]:
    """Return each kind of process once. Example: ``("trainer rank 0, 4 alike", footprint)``."""
    kinds: dict[Any, list[Any]] = {}
    for each in footprints:
        kind = re.sub(r"\d+", "#", each.process), each.on_gpu, each.peak_bytes
        kinds.setdefault(kind, []).append(each)
    return [
        (same[0].process + (f", {len(same)} alike" if len(same) > 1 else ""), same[0])
        for same in kinds.values()
    ]


def full_gpus(found: Any, slots: list[Any], gpu_bytes: float | None) -> list[str]:
    """Name the GPUs that would have to hold more than they can."""
    if gpu_bytes is None:
        return []
    on_bundle: dict[Any, list[Any]] = {}
    for each in slots:
        on_bundle.setdefault(each.bundle, []).append(each.actor.name)
    full: dict[tuple[str, str], list[str]] = {}  # of bundles that differ in numbers alone
    for names in on_bundle.values():
        # Of an actor with several GPUs every GPU holds the same.
        parts = [[f for f in found.of(name) if f.on_gpu] for name in names]
        size_bytes = together_bytes([max(own, key=lambda f: f.peak_bytes) for own in parts])
        if size_bytes > gpu_bytes:
            size = f"{size_bytes / GIB:.1f} of {gpu_bytes / GIB:.1f} GiB"
            words = " and ".join(names)
            full.setdefault((re.sub(r"\d+", "#", words), size), []).append(words)
    return [
        f"GPU of {alike[0]}{f' and {len(alike) - 1} alike' if len(alike) > 1 else ''}: {size}"
        for (_, size), alike in full.items()
    ]


def _slots_table(slots: list[Any]) -> Any:
    from rlpost.control.placement import picture

    table = _table("slots", "node", "actors")
    for line in picture(slots):
        node, _, actors = line.partition(": ")
        table.add_row(node, actors)
    return table
