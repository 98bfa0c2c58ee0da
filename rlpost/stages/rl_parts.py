"""The parts of an RL run: checked first, then booted side by side.

Owns assembly. Refuses to own the loop (rl.py). Invariant: everything that can be refused is
refused by ``prepare`` before a file is written or a process started.
"""

import asyncio
import logging
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlpost.checkpoint.store import CheckpointStore
from rlpost.cluster.generators import RemoteGenerator, spawn_generators
from rlpost.cluster.session import Device, Session, resolve_device
from rlpost.cluster.trainers import (
    ReferenceGroup,
    TrainerGroup,
    sender_settings,
    spawn_reference,
    spawn_trainers,
)
from rlpost.cluster.verifiers import RemoteVerifiers, spawn_verifiers
from rlpost.config.schema import RLConfig
from rlpost.control.ledger import Ledger
from rlpost.data.cursor import PromptCursor
from rlpost.data.dataset import PromptDataset, heldout_source
from rlpost.errors import DataError, UserError
from rlpost.models.card import write_model_card
from rlpost.models.locate import context_length, locate_model, parameter_count
from rlpost.rollout.collector import Collector
from rlpost.rollout.vllm_generator import GeneratorConfig, GeneratorDtype
from rlpost.stages.run_directory import RunDirectory, config_hash, find_resume_point
from rlpost.tracking.tracker import Trackers
from rlpost.training.objective import Objective
from rlpost.training.precision import resolve_dtype
from rlpost.types import SamplingConfig
from rlpost.verifiers.base import VerifierConfig
from rlpost.verifiers.check import check as check_verifiers
from rlpost.weights.bus import WeightBus
from rlpost.weights.publisher import Transport

log = logging.getLogger(__name__)

CHECKPOINT_BYTES_PER_PARAMETER = 18  # masters, two moments, weights, and slack


@dataclass(frozen=True, kw_only=True)
class RLPlan:
    """An RL run that passed every check; nothing was written or started yet."""

    cfg: RLConfig
    resolved: dict[str, Any]  # the configuration as plain data
    directory: RunDirectory
    model_path: str
    device: Device
    generator: GeneratorConfig  # with dtype, threads and length resolved
    verifiers: dict[str, VerifierConfig]
    train_set: PromptDataset
    heldout_set: PromptDataset | None
    store: CheckpointStore
    resume_from: Path | None


@dataclass(frozen=True, kw_only=True)
class RLParts:
    """Everything the loop drives."""

    cfg: RLConfig
    config_hash: str
    directory: RunDirectory
    train_set: PromptDataset
    heldout_set: PromptDataset | None
    cursor: PromptCursor
    ledger: Ledger
    collector: Collector
    trainer: TrainerGroup
    reference: ReferenceGroup | None
    objective: Objective
    bus: WeightBus
    store: CheckpointStore
    tracker: Trackers
    resume_from: Path | None

    @property
    def evaluation_sampling(self) -> SamplingConfig:
        rollout = self.cfg.rollout
        return replace(rollout.sampling, temperature=self.cfg.evaluation.temperature)

    def warn(self, message: str) -> None:
        """Tell the person something that does not stop the run."""
        log.warning(message)

    async def export(self, step: int) -> None:
        """Write ``export/``, replacing an earlier one only when the new one is complete."""
        final = self.directory.export
        scratch = final.with_name(".export-scratch")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        await self.trainer.export(scratch)
        write_model_card(
            scratch, base=self.cfg.model.path, stage="rl", step=step, run=self.directory.root.name
        )
        shutil.rmtree(final, ignore_errors=True)
        scratch.rename(final)


def prepare(cfg: RLConfig, resolved: dict[str, Any], *, directory: RunDirectory) -> RLPlan:
    """Check everything that can be checked without starting anything.

    Raises:
        UserError, DataError: something the user can fix.
    """
    from transformers import AutoTokenizer

    model_path = locate_model(cfg.model.path)
    store = CheckpointStore(directory.checkpoints, keep=cfg.checkpoint.keep)
    resume_from = find_resume_point(directory, store, resume=cfg.resume, resolved=resolved)
    device = resolve_device(cfg.cluster.device)
    generator = _resolve_generator(cfg, device=device, context=context_length(model_path))
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    longest_prompt = generator.max_model_len - cfg.rollout.max_tokens
    load = {"tokenizer": tokenizer, "max_prompt_tokens": longest_prompt, "seed": cfg.seed}
    train_set = PromptDataset.load(cfg.data, split="train", **load)
    has_heldout = heldout_source(cfg.data) is not None
    heldout_set = PromptDataset.load(cfg.data, split="heldout", **load) if has_heldout else None
    verifiers = check_verifiers({cfg.verifier.kind: cfg.verifier})
    for dataset in filter(None, (train_set, heldout_set)):
        _require_columns(dataset, verifiers)
    size_bytes = CHECKPOINT_BYTES_PER_PARAMETER * parameter_count(model_path)
    _require_space(directory, store, size_bytes)
    return RLPlan(
        cfg=cfg,
        resolved=resolved,
        directory=directory,
        model_path=model_path,
        device=device,
        generator=generator,
        verifiers=verifiers,
        train_set=train_set,
        heldout_set=heldout_set,
        store=store,
        resume_from=resume_from,
    )


def _require_columns(dataset: PromptDataset, verifiers: dict[str, VerifierConfig]) -> None:
    """Refuse rows that a verifier could only answer with an error."""
    for row in range(len(dataset)):
        prompt = dataset.prompt(0, row)
        for name, cfg in verifiers.items():
            missing = [c for c in cfg.required_columns() if prompt.columns.get(c) is None]
            if missing:
                raise DataError(
                    f"{prompt.address}: no column {missing[0]!r}, which verifier={name} judges by "
                    f"(the row has {sorted(prompt.columns)}); name the right one with "
                    "verifier.answer_column, or choose another verifier"
                )


def _require_space(directory: RunDirectory, store: CheckpointStore, size_bytes: int) -> None:
    created = [p for p in (directory.root, *directory.root.absolute().parents) if not p.exists()]
    try:
        store.require_space(size_bytes)
    except UserError:
        if created:  # the check makes directories to try them; the outermost goes again
            shutil.rmtree(created[-1], ignore_errors=True)
        raise


def _resolve_generator(cfg: RLConfig, *, device: Device, context: int) -> GeneratorConfig:
    """Fill in what depends on machine and model; refuse what neither can give."""
    generator = cfg.generator
    cores = len(os.sched_getaffinity(0))
    local_cpu = device is Device.cpu and cfg.cluster.address is None
    if local_cpu and generator.num > cores:
        raise UserError(
            f"generator.num must be at most the number of cores, {cores} here, got "
            f"{generator.num}; one engine with more threads is faster than several with less"
        )
    length = generator.max_model_len or context
    if length > context:
        raise UserError(
            f"generator.max_model_len must be at most the model's context of {context} tokens, "
            f"got {length}"
        )
    if cfg.rollout.max_tokens >= length:
        raise UserError(
            f"rollout.max_tokens must leave room for a prompt in the {length} tokens of "
            f"{'generator.max_model_len' if generator.max_model_len else 'the model context'}, "
            f"got {cfg.rollout.max_tokens}"
        )
    dtype = generator.dtype
    if dtype is GeneratorDtype.auto:
        dtype = GeneratorDtype(str(resolve_dtype(cfg.trainer.dtype)).removeprefix("torch."))
    threads = generator.threads or max(1, cores // generator.num)
    return replace(generator, max_model_len=length, dtype=dtype, threads=threads)


@asynccontextmanager
async def boot(plan: RLPlan, *, session: Session, tracker: Trackers) -> AsyncIterator[RLParts]:
    """Start actors side by side, yield the parts, close everything.

    Raises:
        InfrastructureError: an actor did not come up.
    """
    cfg, timeout_s = plan.cfg, plan.cfg.cluster.call_timeout_s
    common = {"device": plan.device, "call_timeout_s": timeout_s}
    generators = spawn_generators(session, plan.generator, model_path=plan.model_path, **common)
    trainer = spawn_trainers(session, cfg.trainer, **common)
    judge = spawn_verifiers(session, cfg.cluster, configs=plan.verifiers)
    objective = Objective(
        loss=cfg.loss,
        kl=cfg.algorithm.kl,
        entropy_coefficient=cfg.algorithm.entropy_coefficient,
    )
    reference = None
    if objective.needs_reference:
        reference = spawn_reference(session, cfg.trainer, model_path=plan.model_path, **common)
    infos = await _setup(plan, generators, trainer)
    workers = {name: info.num_workers for name, info in infos.items()}
    try:
        yield RLParts(
            cfg=cfg,
            config_hash=config_hash(plan.resolved),
            directory=plan.directory,
            train_set=plan.train_set,
            heldout_set=plan.heldout_set,
            cursor=PromptCursor(
                len(plan.train_set),
                seed=cfg.seed,
                shuffle=cfg.data.shuffle,
                fingerprint=plan.train_set.fingerprint,
            ),
            ledger=Ledger(),
            collector=Collector(
                generators, judge=judge, on_verifier_error=cfg.rollout.on_verifier_error
            ),
            trainer=trainer,
            reference=reference,
            objective=objective,
            bus=_bus(plan, trainer, generators, workers),
            store=plan.store,
            tracker=tracker,
            resume_from=plan.resume_from,
        )
    finally:
        await _close(trainer, generators, judge)


async def _setup(
    plan: RLPlan, generators: dict[str, RemoteGenerator], trainer: TrainerGroup
) -> dict[str, Any]:
    cfg = plan.cfg
    transport = cfg.weights.transport
    if transport is Transport.auto:
        one_host = cfg.cluster.address is None
        transport = Transport.shared_memory if one_host else Transport.gloo
    sender = sender_settings(
        transport=transport,
        run_id=f"{plan.directory.root.name}-{os.getpid()}",
        root=plan.directory.root / ".weights",
        num_receivers=plan.generator.num * plan.generator.tensor_parallel_size,
        timeout_s=cfg.weights.timeout_s,
    )
    setups = [g.setup() for g in generators.values()]
    *infos, _ = await asyncio.gather(
        *setups,
        trainer.setup(cfg.trainer, model_path=plan.model_path, seed=cfg.seed, sender=sender),
    )
    for name, info in zip(generators, infos, strict=True):
        log.info("%s: %s", name, info)
    return dict(zip(generators, infos, strict=True))


def _bus(
    plan: RLPlan,
    trainer: TrainerGroup,
    generators: dict[str, RemoteGenerator],
    workers: dict[str, int],
) -> WeightBus:
    weights = plan.cfg.weights
    count = min(weights.probe_sequences, len(plan.train_set))
    prompts = [plan.train_set.prompt(0, row).token_ids for row in range(count)]
    float32 = plan.generator.dtype is GeneratorDtype.float32
    trainer_float32 = str(resolve_dtype(plan.cfg.trainer.dtype)) == "torch.float32"
    return WeightBus(
        trainer,
        receivers=generators,
        workers=workers,
        probe=[ids[-weights.probe_tokens :] for ids in prompts],
        exact=float32 and trainer_float32,
        max_diff=weights.probe_max_diff,
        timeout_s=weights.timeout_s,
    )


async def _close(
    trainer: TrainerGroup, generators: dict[str, RemoteGenerator], judge: RemoteVerifiers
) -> None:
    """Close in parallel; whoever does not answer is killed with the session."""
    closing = [trainer.close(), judge.close(), *(g.close() for g in generators.values())]
    for result in await asyncio.gather(*closing, return_exceptions=True):
        if isinstance(result, Exception):
            log.warning("closing: %s", result)
