"""Everything a server needs to know before it starts an engine.

Owns the order of the checks, and the room that the engine is built with. Refuses to own each of
them. Invariant: everything that can be refused without an engine, and without plain peft, is
refused here, before anything is written.
"""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from rlpost.errors import UserError
from rlpost.models.locate import context_length, locate_model
from rlpost.models.shape import model_shape
from rlpost.models.stops import stop_token_ids
from rlpost.rollout.device_defaults import require_whole_prompts, with_engine_defaults
from rlpost.rollout.generator_config import AdapterCapacity, EngineConfig, GeneratorDtype
from rlpost.rollout.tensor_parallel import require_divisible
from rlpost.rollout.vllm.architectures import require_vllm_adapters, require_vllm_architecture
from rlpost.rollout.vllm.quantization import require_quantizable
from rlpost.stages.named_adapter import adapter_directory
from rlpost.stages.run_directory import RunDirectory
from rlpost.stages.serve.access import read_token
from rlpost.stages.serve.base import ServedBase, read_template
from rlpost.stages.serve.config import ServeConfig
from rlpost.stages.serve.examination import Candidate, Task
from rlpost.stages.serve.servable import Servable, read_servable
from rlpost.training.adapters.serving import engine_rank
from rlpost.training.precision import has_avx512, has_cuda, resolve_dtype
from rlpost.training.settings import DType

_USUAL_RANK = 16


@dataclass(frozen=True, kw_only=True)
class ServePlan:
    """A server that passed every check; nothing was written or started yet."""

    cfg: ServeConfig
    base: ServedBase
    engine: EngineConfig  # with dtype, threads and length resolved
    adapters: dict[str, Servable]
    capacity: AdapterCapacity | None  # None: the base alone
    token: str | None = field(repr=False)

    @property
    def task(self) -> Task:
        """The examination of the adapters that were given, numbered from 1 in their order."""
        assert self.engine.max_model_len is not None
        return Task(
            base=str(self.base.directory.path),
            base_name=self.base.name,
            template=self.base.template,
            rank=0 if self.capacity is None else self.capacity.rank,
            longest=self.engine.max_model_len - 1,
            dtype=self.engine.dtype.value,
            quantized=self.engine.is_quantized,
            candidates=tuple(
                Candidate(number=number, place=str(each.directory.path), field=each.directory.field)
                for number, each in enumerate(self.adapters.values(), start=1)
            ),
        )


def prepare(cfg: ServeConfig, *, directory: RunDirectory) -> ServePlan:
    """Check everything that can be checked without starting anything.

    Args:
        cfg: checked by ``check_serve``.
        directory: where settings and log will live.

    Raises:
        UserError: something the user can fix.
    """
    directory.refuse_strangers()
    if directory.holds_a_run or directory.export.exists():
        raise UserError(
            f"run.name: {directory.root} holds another stage's run; choose another run.name"
        )
    token = read_token(cfg.serve)
    template = read_template(cfg.serve.chat_template)
    base = ServedBase.read(locate_model(cfg.model.path), name=cfg.base_name, template=template)
    architecture = base.directory.config.architectures[0]
    require_vllm_architecture(architecture, field="model.path")
    if cfg.serve.max_adapters > 0:
        way_out = "serve it alone with serve.max_adapters=0, or what rlpost merge makes of both"
        require_vllm_adapters(
            architecture,
            has_experts=model_shape(str(base.directory.path)).experts is not None,
            on_gpu=has_cuda(),
            field="model.path",
            way_out=way_out,
        )
    engine = _resolved(cfg.generator, base)
    # Each raises where the base cannot be served; the engine reads generation_config.json, too.
    _ = base.tokenizer, base.shapes, stop_token_ids(base.directory)
    adapters = {
        name: _servable(name, place, cfg=cfg, base=base) for name, place in cfg.adapters.items()
    }
    return ServePlan(
        cfg=cfg,
        base=base,
        engine=engine,
        adapters=adapters,
        capacity=_capacity(cfg, adapters),
        token=token,
    )


def _resolved(cfg: EngineConfig, base: ServedBase) -> EngineConfig:
    """Fill in what depends on machine and model."""
    context = context_length(str(base.directory.path))
    length = cfg.max_model_len or context
    if length > context:
        raise UserError(
            f"generator.max_model_len must be at most the model's context of {context} tokens, "
            f"got {length}"
        )
    if length < _SHORTEST:
        raise UserError(
            f"generator.max_model_len must be at least {_SHORTEST}, which the proof of an adapter "
            f"needs, got {length}"
        )
    require_divisible(cfg.tensor_parallel_size, model_shape(str(base.directory.path)))
    named = str(resolve_dtype(DType.auto)).removeprefix("torch.")
    dtype = GeneratorDtype(named) if cfg.dtype is GeneratorDtype.auto else cfg.dtype
    resolved = with_engine_defaults(
        replace(cfg, dtype=dtype, max_model_len=length),
        on_gpu=has_cuda(),
        cores=len(os.sched_getaffinity(0)),
    )
    require_whole_prompts(resolved, on_gpu=has_cuda())
    require_quantizable(
        resolved,
        on_gpu=has_cuda(),
        head_dim=model_shape(str(base.directory.path)).head_dim,
        has_avx512=has_avx512(),
    )
    return resolved


_SHORTEST = 4  # tokens: three of a prompt, and one of the answer


def _servable(name: str, named: str, *, cfg: ServeConfig, base: ServedBase) -> Servable:
    place: Path = adapter_directory(named, cfg.run.dir, field=f"adapters.{name}")
    return read_servable(place, base=base, rank=cfg.serve.max_rank, field=f"adapters.{name}")


def _capacity(cfg: ServeConfig, adapters: dict[str, Servable]) -> AdapterCapacity | None:
    if cfg.serve.max_adapters == 0:
        return None
    ranks = [each.about["rank"] for each in adapters.values()]
    rank = cfg.serve.max_rank or max([_USUAL_RANK, *ranks])
    return AdapterCapacity(
        rank=engine_rank(rank, field="serve.max_rank"), versions=cfg.serve.max_adapters
    )
