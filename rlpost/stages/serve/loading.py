"""Loads adapters into a server that answers meanwhile, and takes them out again.

Owns the order: reserve the name, examine, load, prove, serve; refuse new requests, wait, remove.
Refuses to own names and states (control/served_adapters.py), the checks (examination.py) and the
engine. Invariants: nobody can use an adapter before it is proved; one that leaves the engine has no
request in it; a load that fails leaves the server as it was.
"""

import asyncio
import logging
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rlpost.child_processes import ends_with_us
from rlpost.control.served_adapters import ServedAdapter, ServedAdapters
from rlpost.errors import UserError
from rlpost.rollout.adapter_pushes import ABORT_AGAIN_S, AdapterHolder
from rlpost.stages.named_adapter import adapter_directory
from rlpost.stages.serve import examination
from rlpost.stages.serve.config import ServeSettings, require_adapter_name
from rlpost.stages.serve.examination import Candidate, Examined, Task
from rlpost.stages.serve.proof import prove
from rlpost.weights.transports.protocol import Locator

log = logging.getLogger(__name__)

FIELD = "path"  # what an error calls an adapter that a client names
_ABORTED_S = 2.0  # until an aborted request has left the engine, even if its answer is not read
_GRACE_S = 5.0  # of a process that was told to end

T = TypeVar("T")


class AdapterEngine(AdapterHolder, Protocol):
    """The engine, as loading sees it."""

    async def score(
        self, sequences: Sequence[Sequence[int]], *, adapter: int | None
    ) -> list[list[float]]:
        """Return the log-prob of every token after the first of each sequence."""


class Directory(Protocol):
    """What the server lets requests name."""

    def offer(self, adapter: ServedAdapter) -> None:
        """Requests may name it from now on."""

    def withdraw(self, adapter: ServedAdapter) -> None:
        """No request may."""


@dataclass(frozen=True, kw_only=True)
class Unloaded:
    """How an unload ended. Example: ``Unloaded(name="math", aborted=0)``"""

    name: str
    aborted: int  # requests that were still running at the deadline


class Loading:
    """Loads and unloads adapters.

    Args:
        engine: holds them.
        directory: what requests may name.
        adapters: names and states.
        task: of an examination, without candidates.
        cfg: deadlines.
        runs: where the runs live whose names stand for their adapters.
        clock: seconds.
    """

    def __init__(
        self,
        *,
        engine: AdapterEngine,
        directory: Directory,
        adapters: ServedAdapters,
        task: Task,
        cfg: ServeSettings,
        runs: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._directory = directory
        self.adapters = adapters
        self._task = task
        self._cfg = cfg
        self._runs = runs
        self._clock = clock
        self._examining = asyncio.Lock()  # the base is in memory once more meanwhile
        self._changing = asyncio.Lock()  # the engine prepares one adapter at a time
        self._left = asyncio.Event()  # a request has ended
        self._tasks: set[asyncio.Task[Any]] = set()

    # -- requests -------------------------------------------------------------------------

    def enter(self, number: int, request: str) -> ServedAdapter:
        """See ``ServedAdapters.enter``."""
        return self.adapters.enter(number, request)

    def leave(self, adapter: ServedAdapter, request: str) -> None:
        """See ``ServedAdapters.leave``."""
        self.adapters.leave(adapter, request)
        self._left.set()

    # -- loading --------------------------------------------------------------------------

    async def load(self, name: str, place: str) -> ServedAdapter:
        """Examine, load, prove and serve an adapter that a client names.

        It goes on although the client may go away.

        Raises:
            UserError: the name is taken, there is no room, or the adapter is refused.
            InfrastructureError: it could not be examined.
        """
        require_adapter_name(name, field="name")
        found = self._permitted(place)
        adapter = self.adapters.begin(name)
        return await self._to_its_end(self._load(adapter, found))

    def _permitted(self, place: str) -> Path:
        """Return the adapter's directory, where clients may load from it.

        Raises:
            UserError: it, or what it links to, lies elsewhere.
        """
        root = Path(self._cfg.load_from or self._runs).expanduser().resolve()
        way_out = (
            f"clients may load what lies below {root}; move it there, or start the server with "
            "serve.load_from=DIR"
        )
        if not place.isprintable():
            raise UserError(f"{FIELD} must name a directory, got {place!a:.100}")
        try:
            here = [Path(place).expanduser(), Path(self._runs).expanduser() / place]
            if not any(each.resolve().is_relative_to(root) for each in here):
                raise UserError(f"{FIELD}: {place!r:.200} is not permitted: {way_out}")
            found = adapter_directory(place, self._runs, field=FIELD)
            files = [found, *found.iterdir()]
            outside = [each for each in files if not each.resolve().is_relative_to(root)]
        except (OSError, RuntimeError) as error:  # a loop of links, or no home
            raise UserError(f"{FIELD}: {place!r:.200} cannot be read: {error}") from error
        if outside:
            raise UserError(f"{FIELD}: {outside[0]} leads elsewhere: {way_out}")
        return found

    async def _load(self, adapter: ServedAdapter, place: Path) -> ServedAdapter:
        try:
            with tempfile.TemporaryDirectory(prefix="rlpost-serve-") as scratch:
                (finding,) = await self._examined(adapter, place, Path(scratch))
                await self.admit(adapter, finding, field=FIELD)
        except BaseException as error:
            self.adapters.forget(adapter.name)
            log.warning("%s was not loaded: %s", adapter.name, error)
            raise
        return adapter

    async def _examined(self, adapter: ServedAdapter, place: Path, scratch: Path) -> list[Examined]:
        candidate = Candidate(number=adapter.number, place=str(place), field=FIELD)
        async with self._examining:
            task = replace(self._task, candidates=(candidate,))
            process = await asyncio.create_subprocess_exec(
                *examination.command(scratch, task),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=examination.environment(),
                preexec_fn=ends_with_us(),
            )
            try:
                async with asyncio.timeout(self._cfg.load_timeout_s):
                    said, _ = await process.communicate()
            except TimeoutError as error:
                raise examination.too_slow(self._cfg.load_timeout_s) from error
            finally:
                if process.returncode is None:
                    process.kill()
                    await asyncio.wait_for(process.wait(), _GRACE_S)
        assert process.returncode is not None
        return examination.findings(scratch, code=process.returncode, said=said)

    async def admit(self, adapter: ServedAdapter, finding: Examined, *, field: str) -> None:
        """Load an adapter that was examined, prove it, and let requests use it.

        Raises:
            UserError: the engine does not serve it faithfully, or its name stood for others.
            WeightPushError: the engine refuses it.
        """
        self.adapters.bind(adapter.name, digest=finding.digest, about=finding.about)
        others = [each for each in self.adapters.numbers if each != adapter.number]
        async with self._changing:
            try:
                await self._engine.receive_adapter(Locator(**finding.locator), first_rank=1)
                await self._engine.load_adapter(adapter.number, keep=others)
                proof = prove(
                    base=await self._engine.score(finding.sequences, adapter=None),
                    adapter=await self._engine.score(finding.sequences, adapter=adapter.number),
                    wanted=finding.wanted,
                    change=finding.change,
                    exact=self._task.dtype == "float32" and not self._task.quantized,
                    quantized=self._task.quantized,
                    field=field,
                )
            except BaseException:
                await self._engine.keep_adapters(others)
                raise
        self.adapters.serve(adapter.name)
        self._directory.offer(adapter)
        log.info(
            "%s is served: %s; its log-probs differ from plain peft's by %.2g nats on average and "
            "%.2g at most, from the base's by up to %.2g",
            adapter.name, dict(adapter.about), proof.mean, proof.largest, proof.change,
        )  # fmt: skip

    # -- unloading ------------------------------------------------------------------------

    async def unload(self, name: str, *, deadline_s: float) -> Unloaded:
        """Refuse new requests to an adapter, wait for those that run, and remove it.

        It goes on although the client may go away.

        Raises:
            UserError: there is none, or it is being loaded or unloaded.
        """
        adapter = self.adapters.drain(name)
        self._directory.withdraw(adapter)
        return await self._to_its_end(self._unload(adapter, deadline_s))

    async def _unload(self, adapter: ServedAdapter, deadline_s: float) -> Unloaded:
        await self._emptied(adapter, deadline_s)
        aborted = len(adapter.running)
        start_s = self._clock()
        while adapter.running and self._clock() - start_s < _ABORTED_S:
            await self._engine.abort(sorted(set(adapter.running)))
            await self._emptied(adapter, ABORT_AGAIN_S)
        async with self._changing:
            keep = [each for each in self.adapters.numbers if each != adapter.number]
            await self._engine.keep_adapters(keep)
        self.adapters.forget(adapter.name)
        log.info("%s was unloaded, %d requests were aborted", adapter.name, aborted)
        return Unloaded(name=adapter.name, aborted=aborted)

    async def _emptied(self, adapter: ServedAdapter, timeout_s: float) -> None:
        """Wait until no request is in the adapter, or for so long."""
        try:
            async with asyncio.timeout(timeout_s):
                while adapter.running:
                    self._left.clear()
                    await self._left.wait()
        except TimeoutError:
            return

    async def _to_its_end(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Give up what is under way."""
        for each in list(self._tasks):
            each.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
