"""Loads and drains with an engine that is a list of adapters, under asyncio."""

import asyncio
import json
from dataclasses import asdict

import pytest

from rlpost.control.served_adapters import NameTaken, NoSuchAdapter, ServedAdapters
from rlpost.errors import InfrastructureError, UserError, WeightPushError
from rlpost.stages.serve import examination
from rlpost.stages.serve.config import ServeSettings
from rlpost.stages.serve.examination import Examined, Task
from rlpost.stages.serve.loading import Loading

BASE, CHANGED = [[-1.0, -2.0]], [[-1.5, -2.0]]


class Engine:
    """Holds adapters, and knows the requests that are in it."""

    def __init__(self):
        self.held, self.received, self.aborted, self.leave = [], None, [], None
        self.scores = CHANGED

    async def receive_adapter(self, locator, *, first_rank):
        self.received = locator.manifest["version"]

    async def load_adapter(self, version, *, keep):
        assert self.received == version and set(keep) == set(self.held)
        self.held = [*keep, version]

    async def keep_adapters(self, keep):
        assert set(keep) <= set(self.held)
        self.held = list(keep)

    async def abort(self, request_ids):
        self.aborted += request_ids
        if self.leave is not None:
            self.leave()

    async def score(self, sequences, *, adapter):
        assert adapter is None or adapter in self.held
        return BASE if adapter is None else self.scores


class Names:
    def __init__(self):
        self.offered = []

    def offer(self, adapter):
        self.offered.append(adapter.name)

    def withdraw(self, adapter):
        self.offered.remove(adapter.name)


def task():
    return Task(
        base="base", base_name="tiny", template=None, rank=8, longest=99, dtype="float32",
        candidates=(),
    )  # fmt: skip


def loading(tmp_path, **settings):
    return Loading(
        engine=Engine(),
        directory=Names(),
        adapters=ServedAdapters(base="tiny", room=3),
        task=task(),
        cfg=ServeSettings(**settings),
        runs=str(tmp_path / "runs"),
    )


def finding(number, digest="weights"):
    locator = {"transport": "filesystem", "manifest": {"version": number}}
    return Examined(
        number=number, about={"path": "p"}, digest=digest, locator=locator,
        sequences=[[1, 2, 3]], wanted=CHANGED, change=0.5,
    )  # fmt: skip


async def admitted(room, name="math"):
    adapter = room.adapters.begin(name)
    await room.admit(adapter, finding(adapter.number), field="adapters.math")
    return adapter


async def test_an_adapter_is_served_once_it_is_proved(tmp_path):
    room = loading(tmp_path)
    await admitted(room)
    assert room._directory.offered == ["math"] and room._engine.held == [1]
    room._engine.scores = BASE  # of an engine that leaves the next one out
    with pytest.raises(UserError, match="does not compute what plain peft computes"):
        await admitted(room, "code")
    assert room._directory.offered == ["math"] and room._engine.held == [1]


async def test_an_unload_waits_for_what_runs_and_nothing_new_enters(tmp_path):
    room = loading(tmp_path)
    adapter = await admitted(room)
    room.enter(1, "a")
    unload = asyncio.create_task(room.unload("math", deadline_s=1000))
    await asyncio.sleep(0)
    assert room._directory.offered == [] and not unload.done()
    with pytest.raises(NoSuchAdapter):
        room.enter(1, "b")
    with pytest.raises(NameTaken, match="math is draining"):
        await room.unload("math", deadline_s=0)
    with pytest.raises(NameTaken, match="draining already"):
        room.adapters.begin("math")
    assert room._engine.held == [1]
    room.leave(adapter, "a")
    assert (await unload).aborted == 0 and room._engine.held == []
    assert room._engine.aborted == []
    with pytest.raises(NoSuchAdapter, match="loaded: none"):
        await room.unload("math", deadline_s=0)


async def test_what_runs_at_the_deadline_is_aborted(tmp_path):
    room = loading(tmp_path)
    adapter = await admitted(room)
    for request in ("a", "b"):
        room.enter(1, request)
    room._engine.leave = lambda: [room.leave(adapter, each) for each in list(adapter.running)]
    assert (await room.unload("math", deadline_s=0)).aborted == 2
    assert room._engine.aborted == ["a", "b"] and room._engine.held == []


async def test_a_client_that_goes_away_stops_no_unload(tmp_path):
    room = loading(tmp_path)
    adapter = await admitted(room)
    room.enter(1, "a")
    unload = asyncio.create_task(room.unload("math", deadline_s=1000))
    await asyncio.sleep(0)
    unload.cancel()
    await asyncio.gather(unload, return_exceptions=True)
    room.leave(adapter, "a")
    while room.adapters.numbers:
        await asyncio.sleep(0)
    assert room._engine.held == []


async def test_an_engine_that_refuses_leaves_everything_as_it_was(tmp_path):
    room = loading(tmp_path)

    async def refuse(locator, *, first_rank):
        raise WeightPushError("no")

    room._engine.receive_adapter = refuse
    with pytest.raises(WeightPushError):
        await admitted(room)
    assert room._directory.offered == [] and room._engine.held == []


@pytest.mark.parametrize("name", ["", "two words", "text", "../x", "a" * 300, "tiny"])
async def test_names_that_cannot_be_asked_for_are_refused(name, tmp_path):
    place = tmp_path / "runs" / "a" / "export"
    place.mkdir(parents=True)
    (place / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"name|base itself"):
        await loading(tmp_path).load(name, "a")


async def test_clients_load_what_lies_below_one_directory(tmp_path):
    inside, outside = tmp_path / "runs" / "a" / "export", tmp_path / "outside"
    for place in (inside, outside):
        place.mkdir(parents=True)
        (place / "adapter_config.json").write_text("{}")
    room = loading(tmp_path)
    assert room._permitted("a") == room._permitted(str(inside))
    (tmp_path / "runs" / "link").symlink_to(outside)
    for place in (str(outside), "../outside", "link", "/etc", "\x00", "a/../../outside"):
        with pytest.raises(UserError, match="path"):
            room._permitted(place)
    (inside / "adapter_model.safetensors").symlink_to("/etc/passwd")
    with pytest.raises(UserError, match="leads elsewhere"):
        room._permitted("a")
    (tmp_path / "runs" / "loop").symlink_to("loop")
    with pytest.raises(UserError):
        room._permitted("loop")
    assert loading(tmp_path, load_from=str(tmp_path))._permitted(str(outside)) == outside


def test_what_an_examination_says_is_what_the_server_hears(tmp_path):
    file = tmp_path / "findings.json"
    file.write_text(json.dumps({"found": [asdict(finding(3))]}))
    (found,) = examination.findings(tmp_path, code=0, said=b"")
    assert found == finding(3)
    file.write_text(json.dumps({"refused": "path: it changes nothing"}))
    with pytest.raises(UserError, match="changes nothing"):
        examination.findings(tmp_path, code=2, said=b"")
    with pytest.raises(InfrastructureError, match="killed by SIGKILL"):
        examination.findings(tmp_path, code=-9, said=b"")
    with pytest.raises(InfrastructureError, match=r"exit code 1.*MemoryError"):
        examination.findings(tmp_path, code=1, said=b"Traceback\nMemoryError\n")
