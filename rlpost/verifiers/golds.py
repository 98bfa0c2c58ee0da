"""Does the answer of each row score 1 when it is the response?

Owns the trial of golds through a real worker: a sample before anything starts, then all of
them in the background while the run goes on. Refuses to own what a kind's own answer looks like
(``VerifierConfig.own_answer``); kinds that cannot say, such as functions, are not tried.
Invariants: the trial before the start takes ``SAMPLE_ROWS`` verdicts per verifier, however
large the data is; the one behind the run takes a fifth of one core at most.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, Self

from rlpost.errors import InfrastructureError
from rlpost.types import Prompt
from rlpost.verifiers.base import TIMEOUT, Sample, VerifierConfig
from rlpost.verifiers.workers.sandbox import Sandbox
from rlpost.verifiers.workers.wire import encode_sample

log = logging.getLogger(__name__)

SAMPLE_ROWS = 64  # spread evenly over a data set
_BATCH = 16  # verdicts between two looks at whether to stop
_SHARE = 0.2  # of the time, in the background; the rest is pauses
_CLOSE_TIMEOUT_S = 10.0


class Rows(Protocol):
    """A data set, as far as it is read here."""

    def __len__(self) -> int: ...

    def prompt(self, epoch: int, row: int) -> Prompt:
        """Return the prompt of a row."""
        ...


@dataclass(frozen=True, kw_only=True)
class FailedGold:
    """A row whose own answer does not score 1.

    Example: ``FailedGold(address="t.jsonl:17", verifier="verifier=exact", reason="it scores 0")``
    """

    address: str
    verifier: str
    reason: str

    def __str__(self) -> str:
        return (
            f"{self.address}: {self.verifier} does not score the row's own answer 1: "
            f"{self.reason}; mend the row or the verifier's settings"
        )


def sampled_rows(num_rows: int) -> range:
    """Return the rows of a data set that are tried before anything starts."""
    return range(0, num_rows, max(1, -(-num_rows // SAMPLE_ROWS)))


def failed_golds(
    configs: Mapping[str, VerifierConfig], prompts: Iterable[Prompt]
) -> list[FailedGold]:
    """Try the golds of a few rows; starts one worker, and none where no kind can be tried.

    Raises:
        InfrastructureError: the worker died.
    """
    asked = list(_asked(configs, prompts))
    if not asked:
        return []
    sandbox = Sandbox(configs)
    try:
        return [failed for each in asked if (failed := _tried(sandbox, configs, each)) is not None]
    finally:
        sandbox.close()


class GoldWatch:
    """Tries the golds of all rows in a thread, and warns of those that fail.

    A failing gold does not stop a run that is under way: its row earns no reward, which costs
    what one bad row costs. The first is warned of at once, their number at the end.

    Example::

        with GoldWatch(plan.verifiers, [plan.train_set], warn=run.warn):
            ...
    """

    def __init__(
        self,
        configs: Mapping[str, VerifierConfig],
        data: Sequence[Rows],
        *,
        warn: Callable[[str], None],
    ) -> None:
        self._configs = configs
        self._data = data
        self._warn = warn
        self._stop = threading.Event()
        self._sandbox = Sandbox(configs)
        # A worker ends with the thread that started it, so this thread starts it.
        self._thread = threading.Thread(target=self._run, name="golds", daemon=True)
        self.num_tried = self.num_failed = 0

    def __enter__(self) -> Self:
        first = [rows.prompt(0, 0) for rows in self._data[:1]]
        if any(True for _ in _asked(self._configs, first)):
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._sandbox.interrupt()
        self.wait(_CLOSE_TIMEOUT_S)

    def wait(self, timeout_s: float) -> bool:
        """Return whether the thread came to its end within the time."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        asked = _asked(self._configs, self._prompts())
        try:
            while not self._stop.is_set() and self._try_some(asked):
                pass
        except InfrastructureError as error:
            if not self._stop.is_set():
                log.warning("the answers of the rows are no longer tried: %s", error)
        finally:
            self._sandbox.close()
        if self.num_failed > 1:
            self._warn(f"{self.num_failed} rows have an answer that does not score 1 itself")
        log.info("%d answers tried against themselves, %d failed", self.num_tried, self.num_failed)

    def _try_some(self, asked: Iterator["_Asked"]) -> bool:
        start = time.monotonic()
        batch = list(islice(asked, _BATCH))
        for each in batch:
            self._count(_tried(self._sandbox, self._configs, each))
        self._stop.wait((time.monotonic() - start) * (1 / _SHARE - 1))
        return bool(batch)

    def _prompts(self) -> Iterator[Prompt]:
        for rows in self._data:
            yield from (rows.prompt(0, row) for row in range(len(rows)))

    def _count(self, failed: FailedGold | None) -> None:
        self.num_tried += 1
        if failed is not None:
            self.num_failed += 1
            if self.num_failed == 1:
                self._warn(str(failed))


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """One gold as the response to its own row."""

    name: str
    sample: Sample


def _asked(configs: Mapping[str, VerifierConfig], prompts: Iterable[Prompt]) -> Iterator[_Asked]:
    for prompt in prompts:
        for name, cfg in configs.items():
            if cfg.abstains and cfg.unjudgeable(prompt.columns):
                continue
            answer = cfg.own_answer(prompt.columns)
            if answer is not None:
                sample = Sample(
                    prompt=prompt.text,
                    text=answer,
                    columns=dict(prompt.columns),
                    address=prompt.address,
                )
                yield _Asked(name=name, sample=sample)


def _tried(
    sandbox: Sandbox, configs: Mapping[str, VerifierConfig], asked: _Asked
) -> FailedGold | None:
    cfg = configs[asked.name]
    try:
        [reply] = sandbox.call(asked.name, [encode_sample(asked.sample)], timeout_s=cfg.timeout_s)
    except TimeoutError:
        reply = {"reward": None, "error": TIMEOUT}
    if reply["reward"] == 1.0:
        return None
    return FailedGold(address=asked.sample.address, verifier=str(cfg), reason=_reason(reply))


def _reason(reply: Mapping[str, Any]) -> str:
    if reply["reward"] is None:
        return str(reply["error"])
    why = reply.get("info", {}).get("reason")
    return f"it scores {reply['reward']:g}" + (f", because {why}" if why else "")
