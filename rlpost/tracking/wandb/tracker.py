"""Sends records to Weights & Biases, offline if there is no key; failures never end a run.

Owns the W&B run of a run directory: its id (``wandb/run_id``), so that a resumed run goes on
in the same W&B run, and its files (``wandb/``). Refuses to own the decision online/offline
(mode.py). Invariants: a failure of W&B costs at most a warning and a bounded wait; W&B's own
step never decreases; rows that were sent are never presented as undone.

W&B cannot delete rows: its rewind is a preview feature of the server, does not exist offline or
self-hosted, and does not support custom axes. Therefore steps that are repeated after a rewind
are sent again, with the same ``training/global_step``, in addition to the old rows.
``training/attempt`` (0, 1, ...) counts how often the run went back before a row: for each step
the row with the highest attempt is valid, and it was sent last, so W&B's summary is right.
"""

import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlpost.checkpoint.state import write_text
from rlpost.tracking.boundary import attempt
from rlpost.tracking.config import TrackingConfig, WandbMode
from rlpost.tracking.sample import SampleRecord, evenly
from rlpost.tracking.tracker import RunStatus
from rlpost.tracking.wandb.lineage import model_artifact

logger = logging.getLogger(__name__)

_INIT_TIMEOUT_S = 30.0
_FINISH_TIMEOUT_S = 60.0
_MAX_TEXT = 4000  # characters of a prompt or response in a table
_MAX_FAILURES = 3  # in a row; then W&B is given up
_STEP = "training/global_step"
_ATTEMPT = "training/attempt"
_COLUMNS = ["step", "uid", "sample", "reward", "prompt", "response", "finish_reason", "num_tokens"]


class WandbTracker:
    """Tracker that sends metrics, sample tables, the config and the model's lineage to W&B.

    A run that cannot be opened online is opened offline; if that fails too, or several calls in
    a row fail, nothing more is sent, after a warning.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        cfg: TrackingConfig,
        mode: WandbMode,
        run_name: str,
        config: Mapping[str, Any],
    ) -> None:
        assert mode in (WandbMode.online, WandbMode.offline), mode
        self._run: Any = None
        self._run_dir, self._config = run_dir, config
        self._step = 0
        self._sample_rows = cfg.sample_rows
        self._failures = 0
        self._table_failures = 0  # counted separately, because tables are written as files
        self._attempt = 0

        def open_as(wanted: WandbMode) -> Any:
            return _open(run_dir, cfg=cfg, mode=wanted, run_name=run_name, config=config)

        self._run = attempt(f"opening W&B ({mode.value})", lambda: open_as(mode))
        if self._run is None and mode is WandbMode.online:
            self._run = attempt("opening W&B (offline)", lambda: open_as(WandbMode.offline))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send metrics; ``training/global_step`` is the axis of every chart."""
        self._step = step
        if self._run is None:
            return
        if self._sent(f"the W&B log of step {step}", lambda: {**metrics, _STEP: step}):
            self._failures = 0
            return
        self._failures += 1
        if self._failures >= _MAX_FAILURES:
            logger.warning("W&B failed %d times in a row: given up for this run", self._failures)
            self._run = None

    def log_samples(self, step: int, samples: Sequence[SampleRecord]) -> None:
        """Send a table of evenly chosen samples."""
        if self._run is None or not self._sample_rows or not samples:
            return
        chosen = evenly(samples, self._sample_rows)
        sent = self._sent(
            f"the W&B table of step {step}",
            lambda: {"samples": _table(step, chosen), _STEP: step},
        )
        self._table_failures = 0 if sent else self._table_failures + 1
        if self._table_failures >= _MAX_FAILURES:
            logger.warning("W&B tables failed %d times in a row: given up", self._table_failures)
            self._sample_rows = 0

    def rewind(self, step: int) -> None:
        """Begin the next attempt; see the module docstring."""
        if self._run is not None:
            number = attempt("counting W&B attempts", lambda: _next_attempt(self._run_dir))
            self._attempt = self._attempt + 1 if number is None else number

    def close(self, status: RunStatus) -> None:
        """Finish the W&B run, waiting at most a minute for an upload."""
        if self._run is not None:
            run, exit_code = self._run, 0 if status is RunStatus.done else 1
            if status is RunStatus.done and (self._run_dir / "export").exists():
                attempt("the W&B artefact of the model", self._log_model)
            attempt("closing W&B", lambda: run.finish(exit_code=exit_code))
            self._run = None

    def _log_model(self) -> None:
        artifact = model_artifact(
            self._run_dir,
            identity=run_id(self._run_dir),
            step=self._step,
            config=self._config,
        )
        self._run.log_artifact(artifact, aliases=[f"step-{self._step}"])

    def _sent(self, what: str, row: Callable[[], Mapping[str, Any]]) -> bool:
        """Log what ``row`` returns; return whether that worked."""

        def send() -> bool:
            self._run.log({**row(), _ATTEMPT: self._attempt})
            return True

        return attempt(what, send) is True


def run_id(run_dir: Path) -> str:
    """Return the W&B id of a run directory; the first call creates it.

    Raises:
        OSError: the directory cannot be written.
    """
    path = run_dir / "wandb" / "run_id"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        write_text(path, secrets.token_hex(4) + "\n")
    return path.read_text(encoding="utf-8").strip()


def _next_attempt(run_dir: Path) -> int:
    """Return the number of the next attempt, stored in ``wandb/attempt``; the first is 0."""
    path = run_dir / "wandb" / "attempt"
    number = int(path.read_text(encoding="utf-8")) + 1 if path.exists() else 0
    write_text(path, f"{number}\n")
    return number


def _open(
    run_dir: Path,
    *,
    cfg: TrackingConfig,
    mode: WandbMode,
    run_name: str,
    config: Mapping[str, Any],
) -> Any:
    identity = run_id(
        run_dir
    )  # first, because W&B writes elsewhere if this directory is not writable
    import wandb

    # `silent` of a run does not silence W&B's hint about Weave
    wandb.termsetup(wandb.setup(wandb.Settings(silent=True)).settings, None)
    settings = wandb.Settings(
        console="off",  # the terminal belongs to console.py
        silent=True,
        disable_code=True,
        disable_git=True,
        init_timeout=_INIT_TIMEOUT_S,
        finish_timeout=_FINISH_TIMEOUT_S,
    )
    run = wandb.init(
        dir=str(run_dir),
        project=cfg.project,
        group=cfg.group,
        name=run_name,
        id=identity,
        resume="allow",
        mode="online" if mode is WandbMode.online else "offline",
        config=dict(config),
        reinit="finish_previous",
        settings=settings,
    )
    run.define_metric(_STEP, hidden=True)
    run.define_metric(_ATTEMPT, step_metric=_STEP, hidden=True)
    run.define_metric("*", step_metric=_STEP)
    if mode is WandbMode.offline:
        logger.info("W&B records offline; `wandb sync %s` uploads them", run.settings.sync_dir)
    return run


def _table(step: int, samples: Sequence[SampleRecord]) -> Any:
    import wandb

    rows = [
        [
            step,
            each.uid,
            each.sample,
            each.reward,
            each.prompt[:_MAX_TEXT],
            each.response[:_MAX_TEXT],
            each.finish_reason,
            each.num_tokens,
        ]
        for each in samples
    ]
    return wandb.Table(columns=_COLUMNS, data=rows, allow_mixed_types=True)
