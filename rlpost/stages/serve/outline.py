"""What ``rlpost plan serve`` says: the base, the adapters, and the memory that they take."""

from rlpost.checkpoint.space import format_bytes
from rlpost.doctor import machine
from rlpost.errors import UserError
from rlpost.models.footprint import together_bytes
from rlpost.models.shape import model_shape
from rlpost.rollout.generator_config import GeneratorDtype
from rlpost.rollout.vllm.memory import generator_footprint
from rlpost.stages.run_directory import RunDirectory
from rlpost.stages.serve.config import ServeConfig
from rlpost.stages.serve.plan import ServePlan, prepare
from rlpost.training.precision import has_cuda


def outline(cfg: ServeConfig) -> str:
    """Return what a person wants to know before a server starts.

    Raises:
        UserError: it would be refused, or would not fit.
    """
    plan = prepare(cfg, directory=RunDirectory.of(cfg.run))
    known = "clients must send a token" if plan.token else "without a token"
    lines = [
        f"{plan.base.name} ({plan.base.directory.path}) in {plan.engine.dtype.value}, at "
        f"http://{cfg.serve.host}:{cfg.serve.port}/v1, {known}"
    ]
    for name, each in plan.adapters.items():
        about = each.about
        lines.append(f"{name}: {about['kind']} of rank {about['rank']}, {about['path']}")
    if plan.capacity is not None:
        lines.append(
            f"room for {plan.capacity.versions} adapters of rank {plan.capacity.rank} at most"
        )
    needed, room = _host_bytes(plan), machine.memory().total_bytes
    lines.append(f"{format_bytes(needed)} of memory on the host, of {format_bytes(room)}")
    if needed > room:
        raise UserError(
            "\n".join([*lines, "It would not fit: lower serve.max_adapters or serve.max_rank"])
        )
    return "\n".join(lines)


def _host_bytes(plan: ServePlan) -> int:
    footprints = generator_footprint(
        "server",
        model_shape(str(plan.base.directory.path)),
        plan.engine,
        value_bytes=4 if plan.engine.dtype is GeneratorDtype.float32 else 2,
        gpu_bytes=0.0 if has_cuda() else None,
        adapters=plan.capacity,
        pushed=False,
    )
    return int(together_bytes([each for each in footprints if not each.on_gpu]))
