"""Supervised fine-tuning: the likelihood of the tokens that the mask marks.

Owns what of ``rlpost sft`` needs files and models. Refuses to own the training (likelihood.py).
Invariant: everything that can be refused is refused here, before a file is written or a process
started.
"""

from dataclasses import replace

from rlpost.algorithms.supervised import LikelihoodObjective
from rlpost.cluster.session import Device, resolve_device
from rlpost.data.bad_rows import OnLong
from rlpost.data.conversation.encoder import ConversationEncoder
from rlpost.data.splits import load_splits
from rlpost.models.stops import stop_token_ids
from rlpost.stages.policy import check_policy
from rlpost.stages.results import require_measured
from rlpost.stages.run_directory import RunDirectory
from rlpost.stages.supervised.heldout import measured_names
from rlpost.stages.supervised.likelihood import (
    LikelihoodPlan,
    drawn_in_order,
    longest_example,
    more_tokens,
    roles_of,
    shown_examples,
)
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
    policy = check_policy(cfg.model.path)
    device = device or resolve_device(cfg.cluster.device)
    limit = longest_example(policy, cfg.trainer)
    own_limit = min(limit, cfg.data.max_tokens or limit)
    encoder = ConversationEncoder(
        policy.tokenizer,
        train_on=cfg.data.train_on,
        truncate_to=own_limit if cfg.data.on_long is OnLong.truncate else None,
        stop_ids=stop_token_ids(policy.directory),
    )
    splits = load_splits(
        cfg.data,
        encoder=encoder,
        seed=cfg.seed,
        max_tokens=limit,
        more_tokens=more_tokens(policy, cfg.trainer),
    )
    trainer = cfg.trainer.of_steps(
        splits.train.steps(epochs=cfg.trainer.epochs or 1, rows_per_step=cfg.examples_per_step)
    )
    cfg = replace(cfg, trainer=trainer)
    require_measured(cfg, measured_names("sft", splits.heldout))
    objective = LikelihoodObjective(loss=cfg.loss, kl_coefficient=cfg.kl.coefficient, metrics="sft")
    return LikelihoodPlan(
        cfg=cfg,
        device=device,
        model_path=policy.path,
        roles=roles_of(cfg, policy=policy, objective=objective, device=device),
        objective=objective,
        train=splits.train,
        shown=shown_examples(splits.train, policy.tokenizer),
        skipped=splits.skipped,
        heldout={name: drawn_in_order(corpus) for name, corpus in splits.heldout.items()},
        aggregation=cfg.reduction,
        neftune_alpha=cfg.neftune_alpha,
    )
