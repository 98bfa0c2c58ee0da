"""Further pre-training: the likelihood of documents, one after another in windows.

Owns what of ``rlpost pretrain`` needs files and models. Refuses to own the cut (windows.py) and
the training (likelihood.py). Invariant: everything that can be refused is refused here, before a
file is written or a process started.
"""

from functools import partial

from rlpost.algorithms.supervised import LikelihoodObjective
from rlpost.cluster.session import Device
from rlpost.data.conversation.text import DocumentEncoder
from rlpost.data.encoder import automatic_bos
from rlpost.errors import UserError
from rlpost.stages.learning.prepare import Foundation
from rlpost.stages.run_directory import RunDirectory
from rlpost.stages.supervised.heldout import measured_names
from rlpost.stages.supervised.likelihood import LikelihoodPlan
from rlpost.stages.supervised.pretrain_config import PretrainConfig
from rlpost.stages.supervised.windows import windows


def prepare(
    cfg: PretrainConfig, *, directory: RunDirectory, device: Device | None = None
) -> LikelihoodPlan:
    """Check everything that can be checked without starting anything.

    Args:
        cfg: checked by ``check_pretrain``.
        directory: where the run will live.
        device: where models will run; None: what this machine has.

    Raises:
        UserError, DataError: something the user can fix.
    """
    base = Foundation.of(cfg, device=device).with_suites(directory)
    tokenizer, size = base.policy.tokenizer, cfg.data.window
    if size > base.longest:
        raise UserError(
            f"data.window must be at most {base.longest}, the tokens that {base.policy.path} can "
            f"see, got {size}"
        )
    names = partial(measured_names, "pretrain")
    encoder = DocumentEncoder(tokenizer, refuse_above=base.refuse_above(bounded=False))
    cfg, splits = base.load(encoder, measured=names, bounded=False)
    first = automatic_bos(tokenizer)
    return LikelihoodPlan.of(
        base,
        cfg,
        splits,
        objective=LikelihoodObjective(metrics="pretrain"),
        sequences=partial(windows, size=size, bos=first[0] if first else None),
    )
