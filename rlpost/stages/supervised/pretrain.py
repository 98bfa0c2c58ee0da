"""Further pre-training: the likelihood of documents, one after another in windows.

Owns what of ``rlpost pretrain`` needs files and models. Refuses to own the cut (windows.py) and
the training (likelihood.py). Invariant: everything that can be refused is refused here, before a
file is written or a process started.
"""

from dataclasses import replace
from functools import partial

from rlpost.algorithms.supervised import LikelihoodObjective
from rlpost.cluster.session import Device, resolve_device
from rlpost.data.conversation.text import DocumentEncoder
from rlpost.data.encoder import automatic_bos
from rlpost.data.splits import load_splits
from rlpost.errors import UserError
from rlpost.stages.policy import check_policy
from rlpost.stages.results import require_measured
from rlpost.stages.run_directory import RunDirectory
from rlpost.stages.supervised.heldout import measured_names
from rlpost.stages.supervised.likelihood import (
    LikelihoodPlan,
    drawn_in_order,
    longest_example,
    roles_of,
    shown_examples,
)
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
    policy = check_policy(cfg.model.path)
    device = device or resolve_device(cfg.cluster.device)
    limit = longest_example(policy, cfg.trainer)
    if cfg.data.window > limit:
        raise UserError(
            f"data.window must be at most {limit}, the tokens that {policy.path} can see, got "
            f"{cfg.data.window}"
        )
    splits = load_splits(cfg.data, encoder=DocumentEncoder(policy.tokenizer), seed=cfg.seed)
    steps = splits.train.steps(epochs=cfg.trainer.epochs or 1, rows_per_step=cfg.examples_per_step)
    cfg = replace(cfg, trainer=cfg.trainer.of_steps(steps))
    require_measured(cfg, measured_names("pretrain", splits.heldout))
    objective = LikelihoodObjective(metrics="pretrain")
    first = automatic_bos(policy.tokenizer)
    cut = partial(windows, size=cfg.data.window, bos=first[0] if first else None)
    return LikelihoodPlan(
        cfg=cfg,
        device=device,
        model_path=policy.path,
        roles=roles_of(cfg, policy=policy, objective=objective, device=device),
        objective=objective,
        train=splits.train,
        shown=shown_examples(splits.train, policy.tokenizer),
        skipped=splits.skipped,
        heldout={name: cut(drawn_in_order(corpus)) for name, corpus in splits.heldout.items()},
        sequences=cut,
    )
