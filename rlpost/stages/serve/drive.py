"""A server, from a checked configuration to an exit code.

Owns the order of set-up and tear-down, and what signals mean. Refuses to own what is served
(vllm_server.py, loading.py). Invariants: an address that is taken, and an adapter that is refused
without an engine, are said before anything is written; no process outlives the command.
"""

import asyncio
import logging
import socket
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from rlpost import stop_signals
from rlpost.control.served_adapters import ServedAdapters
from rlpost.errors import ProcessDied, RunFailed, UserError
from rlpost.network import listen
from rlpost.rollout.vllm.arguments import Sampling
from rlpost.rollout.vllm.engine import VllmEngine, start_engine
from rlpost.stages.driver import RunOutcome
from rlpost.stages.registry import Stage
from rlpost.stages.run_directory import RunDirectory
from rlpost.stages.serve.access import close_back_doors
from rlpost.stages.serve.config import ServeConfig, ServeSettings
from rlpost.stages.serve.examination import Examined, examine
from rlpost.stages.serve.loading import Loading
from rlpost.stages.serve.plan import ServePlan
from rlpost.tracking.files.run_log import run_log
from rlpost.tracking.tracker import RunStatus

log = logging.getLogger(__name__)


def serve(stage: Stage, cfg: ServeConfig, resolved: dict[str, Any]) -> RunOutcome:
    """Serve until a signal comes.

    Raises:
        UserError: the address or an adapter is refused.
        InfrastructureError: adapters could not be examined.
        RunFailed: the engine died.
    """
    directory = RunDirectory.of(cfg.run)
    plan: ServePlan = stage.part("plan")(cfg, directory=directory)
    stop_signals.heed()
    with (
        listening(cfg.serve) as sock,
        tempfile.TemporaryDirectory(prefix="rlpost-serve-") as scratch,
    ):
        findings = _examined(plan, Path(scratch))
        with directory.lock(), run_log(directory.log) as terminal:
            directory.write_config(resolved)
            try:
                asyncio.run(_serve(plan, findings, sock, terminal, output=directory.log))
            except ProcessDied as error:
                raise RunFailed(f"{error}") from error
    return RunOutcome(status=RunStatus.interrupted, message="the server has ended")


def listening(cfg: ServeSettings) -> socket.socket:
    """Return a socket that listens where the server will answer; clients that come early wait.

    Raises:
        UserError: the address is taken, or is none of this machine.
    """
    try:
        return listen(cfg.host, cfg.port)
    except OSError as error:
        raise UserError(
            f"serve.port={cfg.port} on serve.host={cfg.host} cannot be used: {error.strerror}; "
            "choose another port, 0 takes a free one, or end the process that has it"
        ) from error


def _examined(plan: ServePlan, scratch: Path) -> list[Examined]:
    if not plan.adapters:
        return []
    _say(sys.stderr, f"comparing {', '.join(plan.adapters)} with plain peft")
    return examine(scratch, plan.task, timeout_s=plan.cfg.serve.load_timeout_s)


def _say(stream: TextIO, text: str) -> None:
    stream.write(f"{text}\n")
    stream.flush()


async def _serve(
    plan: ServePlan,
    findings: Sequence[Examined],
    sock: socket.socket,
    terminal: TextIO,
    *,
    output: Path,
) -> None:
    close_back_doors()
    engine = VllmEngine(
        plan.engine,
        model_path=str(plan.base.directory.path),
        weight_backend="rlpost",
        adapters=plan.capacity,
        start=start_engine,
        sampling=Sampling.client,
        output=f"what it printed, here and in {output}",
    )
    _say(terminal, f"starting the engine for {plan.base.name}")
    try:
        engine.boot(plan.base.shapes)
        await _answer(plan, engine, findings, sock, terminal)
    finally:
        with suppress(ProcessDied):  # it has ended already, as it should or not
            await engine.shut_down()


async def _answer(
    plan: ServePlan,
    engine: VllmEngine,
    findings: Sequence[Examined],
    sock: socket.socket,
    terminal: TextIO,
) -> None:
    from rlpost.stages.serve.vllm_server import Server

    cfg = plan.cfg.serve
    server = await Server.build(
        engine.running,
        model_path=str(plan.base.directory.path),
        base=plan.base.name,
        cfg=cfg,
        template=plan.base.template,
        token=plan.token,
    )
    loading = Loading(
        engine=engine,
        directory=server.models,
        adapters=ServedAdapters(base=plan.base.name, room=cfg.max_adapters),
        task=plan.task,
        cfg=cfg,
        runs=plan.cfg.run.dir,
    )
    server.attach(loading, drain_s=cfg.drain_s)
    for name, finding in zip(plan.adapters, findings, strict=True):
        adapter = loading.adapters.begin(name)
        assert adapter.number == finding.number, "adapters are numbered in their order"
        await loading.admit(adapter, finding, field=f"adapters.{name}")
    host, port = sock.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    names = ", ".join([plan.base.name, *plan.adapters])
    _say(terminal, f"serving {names} at http://{shown}:{port}/v1")
    log.info("serving %s at %s, port %d", names, host, port)
    try:
        await server.run(sock)
    finally:
        await loading.close()
    if server.told_to_end:
        engine.started = None  # the server has shut it down
    else:
        raise ProcessDied("vLLM's engine died while it served, so the server has ended")
