"""An SGLang server: a process below this one, asked over loopback.

Owns its start, its death and the form of its refusals. Refuses to own what is asked (engine.py) and
how it is set up (command.py). Invariants: it ends with the process that started it; an answer that
does not come because it is dead is ``ProcessDied``, and any other is ``NoAnswer``.
"""

import asyncio
import os
import secrets
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rlpost.child_processes import ends_with_us
from rlpost.errors import NoAnswer, ProcessDied
from rlpost.models.shape import model_shape
from rlpost.network import LOOPBACK, free_port
from rlpost.rollout.generator_config import GeneratorConfig
from rlpost.rollout.http_client import HttpAnswer, HttpClient, Unanswered
from rlpost.rollout.sglang.command import command, environment, settings, write_settings

READY_EVERY_S = 0.2
DIES_IN_S = 10.0  # a server whose scheduler has died takes about a second to go
CLOSES_IN_S = 10.0
MOST_BYTES = 2**30  # of the log-probs of a whole group


class SglangServer:
    """One server, from its start to its end.

    Args:
        cfg: of the generators, resolved.
        model_path: directory in Hugging Face layout.
    """

    def __init__(self, cfg: GeneratorConfig, *, model_path: str) -> None:
        self._cfg = cfg
        self._model_path = model_path
        self._process: asyncio.subprocess.Process | None = None
        self._client: HttpClient | None = None
        self._meeting: tempfile.TemporaryDirectory[str] | None = None
        self._url = ""

    async def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            ProcessDied: it ended, or did not come up in time.
        """
        import torch

        on_gpu = torch.cuda.is_available()
        key, port = secrets.token_hex(16), free_port()
        self._url = f"http://{LOOPBACK}:{port}"
        chosen = settings(
            self._cfg,
            model_path=self._model_path,
            shape=model_shape(self._model_path),
            port=port,
            key=key,
            on_gpu=on_gpu,
        )
        self._meeting = tempfile.TemporaryDirectory(prefix="rlpost-meeting-")
        meeting = Path(self._meeting.name, "workers")
        with tempfile.TemporaryDirectory(prefix="rlpost-settings-") as directory:
            file = Path(directory, "settings.yaml")
            write_settings(chosen, file)
            python = self._cfg.sglang.python or sys.executable
            self._process = await asyncio.create_subprocess_exec(
                *command(python, file, self._cfg.sglang.arguments),
                env=environment(self._cfg, meeting=meeting, port=port, on_gpu=on_gpu),
                stdin=asyncio.subprocess.DEVNULL,
                preexec_fn=ends_with_us(),
            )
            self._client = HttpClient(
                key=key,
                timeout_s=self._cfg.request_timeout_s,
                reused=False,
                most_bytes=MOST_BYTES,
            )
            await self._ready()

    async def _ready(self) -> None:
        limit_s = self._cfg.setup_timeout_s or float("inf")
        end_s = time.monotonic() + limit_s
        assert self._client is not None
        while time.monotonic() < end_s:
            if self._ended():
                raise ProcessDied(f"SGLang's server did not come up; {self._why()}")
            try:
                answer = await self._client.ask("GET", f"{self._url}/ready", timeout_s=5.0)
            except Unanswered:
                await asyncio.sleep(READY_EVERY_S)
                continue
            if answer.status == 200:
                return
            await asyncio.sleep(READY_EVERY_S)
        raise ProcessDied(f"SGLang's server did not come up in {limit_s:g} s; {self._why()}")

    async def ask(
        self, method: str, path: str, body: Any = None, *, timeout_s: float | None = None
    ) -> HttpAnswer:
        """Send a request.

        Raises:
            ProcessDied: the server is dead.
            NoAnswer: it gave no whole answer.
        """
        if self._client is None:  # a member may leave in the middle of a push
            raise ProcessDied("this generator is closed")
        try:
            return await self._client.ask(method, self._url + path, body, timeout_s=timeout_s)
        except Unanswered as error:
            if await self._dies():
                raise ProcessDied(f"SGLang's server died: {self._why()}") from error
            raise NoAnswer(f"SGLang's server gave {error} to {path}") from error

    async def _dies(self) -> bool:
        """Whether it is dead, or goes now that nothing answers any more."""
        process = self._process
        if process is None:
            return True
        try:
            await asyncio.wait_for(process.wait(), DIES_IN_S)
        except TimeoutError:
            return False
        return True

    def _ended(self) -> bool:
        return self._process is None or self._process.returncode is not None

    def _why(self) -> str:
        code = None if self._process is None else self._process.returncode
        ended = "it still runs" if code is None else f"it ended with status {code}"
        return (
            f"{ended}; its words are in worker-*-{os.getpid()}.err, in session_latest/logs of "
            "Ray's temporary directory on its host"
        )

    async def close(self) -> None:
        """End it; harmless when it has ended."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()
        await self._end()
        meeting, self._meeting = self._meeting, None
        if meeting is not None:
            meeting.cleanup()

    async def _end(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), CLOSES_IN_S)
        except TimeoutError:
            process.kill()
            await process.wait()
