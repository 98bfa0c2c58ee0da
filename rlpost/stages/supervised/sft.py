"""Supervised fine-tuning: the likelihood of the tokens that the mask marks.

Owns what of ``rlpost sft`` needs files and models. Refuses to own the training (likelihood.py).
Invariant: everything that can be refused is refused here, before a file is written or a process
started.
"""

from functools import partial

from rlpost.algorithms.supervised import LikelihoodObjective
from rlpost.cluster.session import Device
from rlpost.data.conversation.encoder import ConversationEncoder
from rlpost.stages.learning.prepare import Foundation
from rlpost.stages.run_directory import RunDirectory
from rlpost.stages.supervised.heldout import measured_names
from rlpost.stages.supervised.likelihood import LikelihoodPlan
from rlpost.stages.supervised.sft_config import SFTConfig


def prepare(
    cfg: SFTConfig, *, directory: RunDirectory, device: Device | None = None
) -> LikelihoodPlan:
    """Check everything that can be checked without starting anything.

    Args:
        cfg: checked by ``check_sft``.
        directory: where the run will live.
        device: where models will run; None: what this machine has.

    Raises:
        UserError, DataError: something the user can fix.
    """
    base = Foundation.of(cfg, device=device).with_suites(directory)
    encoder = base.encoder(ConversationEncoder, train_on=cfg.data.train_on)
    cfg, splits = base.load(encoder, measured=partial(measured_names, "sft"))
    objective = LikelihoodObjective(loss=cfg.loss, kl_coefficient=cfg.kl.coefficient, metrics="sft")
    return LikelihoodPlan.of(
        base,
        cfg,
        splits,
        objective=objective,
        aggregation=cfg.reduction,
        neftune_alpha=cfg.neftune_alpha,
    )
