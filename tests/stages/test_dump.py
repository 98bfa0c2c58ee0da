"""A stuck run says what everyone was doing."""

import asyncio
from types import SimpleNamespace

from fakes import serving_fleet

from rlpost.control.ledger import Ledger
from rlpost.stages.dump import write_dump


async def test_the_dump_names_tasks_generators_and_prompts(tmp_path):
    ledger = Ledger()
    ledger.admit("0:7")

    async def waits_for_ever():
        await asyncio.Event().wait()

    task = asyncio.create_task(waits_for_ever(), name="group 0:7")
    await asyncio.sleep(0)
    fleet = serving_fleet(["generator 0"], version=3)
    describes = [lambda: "1 groups running", fleet.describe, lambda: str(ledger.counts)]
    write_dump(
        SimpleNamespace(describes=describes),
        tmp_path / "stuck.txt",
        reason="nothing was finished for 1800 s",
    )
    task.cancel()
    text = (tmp_path / "stuck.txt").read_text()
    for part in ("1800 s", "1 groups running", "generator 0: healthy, version 3", "outstanding=1"):
        assert part in text, part
    assert "task group 0:7" in text and "waits_for_ever" in text and "thread" in text
