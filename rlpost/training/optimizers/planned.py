"""How much an optimizer will keep, asked of a model without weights.

Owns the answer for a plan. Refuses to own the sum of a process's memory (training/memory.py).
"""

from rlpost.models.directory.config_file import ModelKind
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.models.locate import parameter_count
from rlpost.training.optimizers.adamw import AdamWConfig
from rlpost.training.optimizers.base import OptimizerConfig, state_bytes
from rlpost.training.optimizers.build import kind_of
from rlpost.training.optimizers.check import check_parameters
from rlpost.training.optimizers.parameters import parameters_of
from rlpost.training.settings import TrainerConfig

ADAMW_BYTES = 8  # two moments of a parameter


def planned_bytes(
    cfg: OptimizerConfig,
    trainer: TrainerConfig,
    *,
    model_path: str,
    kind: ModelKind,
    num_adapted: int | None = None,
) -> int:
    """Return the size of what an optimizer keeps of all that is trained; of an adapter, at most.

    Args:
        cfg: the optimizer's options.
        trainer: the trainer's.
        model_path: a located model.
        kind: what it is trained as.
        num_adapted: parameters of an adapter, which alone are trained; None: there is none.

    Raises:
        UserError: the optimizer has nothing to do on this model.
    """
    if num_adapted is not None:  # no kind keeps more, apart from rows of a few values
        return ADAMW_BYTES * num_adapted
    if isinstance(cfg, AdamWConfig):
        return ADAMW_BYTES * parameter_count(model_path)
    shell = ModelDirectory.read(model_path, kind=kind).shell()
    parameters = list(parameters_of(shell, dict(shell.named_parameters())).values())
    check_parameters(cfg, parameters)
    return state_bytes(kind_of(cfg, trainer), parameters)
