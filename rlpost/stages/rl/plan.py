"""Everything an RL run needs to know before anything starts.

Owns the checks that need files, models and the machine. Refuses to own processes
(parts.py). Invariant: everything that can be refused is refused here, before a file is
written or a process started.
"""

import logging
from dataclasses import dataclass
from functools import partial

from rlpost.cluster.session import Device, resolve_device
from rlpost.config.schema import RLConfig
from rlpost.data.bad_rows import OnBadRow
from rlpost.data.dataset import DataConfig, PromptDataset, heldout_source
from rlpost.errors import DataError
from rlpost.models.locate import context_length
from rlpost.models.shape import model_shape
from rlpost.models.vocabulary import require_in_vocabulary
from rlpost.rollout.interruption import Interruption
from rlpost.rollout.vllm_generator import GeneratorConfig
from rlpost.stages.rl.models import check_models
from rlpost.stages.rl.roles import roles_of
from rlpost.stages.roles import Role
from rlpost.stages.run_directory import RunDirectory
from rlpost.stages.sampling.generator_settings import resolve_generator
from rlpost.training.reward.reader import RewardReader
from rlpost.verifiers.admission import refusal_of_row, required_columns
from rlpost.verifiers.base import VerifierConfig
from rlpost.verifiers.check import check as check_verifiers
from rlpost.verifiers.golds import failed_golds, sampled_rows

log = logging.getLogger(__name__)

READ_PROMPTS = 256  # about so many are tried with every reward model's template


@dataclass(frozen=True, kw_only=True)
class RLPlan:
    """An RL run that passed every check; nothing was written or started yet."""

    cfg: RLConfig
    model_path: str
    device: Device
    generator: GeneratorConfig  # with dtype, threads and length resolved
    verifiers: dict[str, VerifierConfig]
    roles: list[Role]  # who exists
    train_set: PromptDataset
    heldout_set: PromptDataset | None
    interruption: Interruption | None  # of training responses


def prepare(cfg: RLConfig, *, directory: RunDirectory, device: Device | None = None) -> RLPlan:
    """Check everything that can be checked without starting anything.

    Args:
        cfg: checked by ``config/checks.py``.
        directory: where the run will live.
        device: where models will run; None: what this machine has.

    Raises:
        UserError, DataError: something the user can fix.
    """
    models = check_models(cfg)
    model_path, tokenizer = models.policy, models.tokenizer
    device = device or resolve_device(cfg.cluster.device)
    generator = resolve_generator(
        cfg.generator,
        cluster=cfg.cluster,
        device=device,
        context=context_length(model_path),
        max_tokens=cfg.rollout.max_tokens,
        field="rollout.max_tokens",
        trainer=cfg.trainer,
    )
    require_in_vocabulary(
        cfg.rollout.stop_token_ids,
        size=model_shape(model_path).vocabulary,
        field="rollout.stop_token_ids",
    )
    interruption = Interruption.of(
        cfg.rollout.interruption,
        encode=partial(tokenizer.encode, add_special_tokens=False),
        max_tokens=cfg.rollout.max_tokens,
    )
    room = min(generator.max_model_len, cfg.trainer.max_tokens_per_micro_batch)
    longest_prompt = room - cfg.rollout.max_tokens
    verifiers = check_verifiers(cfg.all_verifiers)
    load = {
        "tokenizer": tokenizer,
        "max_prompt_tokens": longest_prompt,
        "seed": cfg.seed,
        "columns": required_columns(verifiers),
        "refuse": partial(refusal_of_row, verifiers, cfg.combination.deciding),
    }
    train_set = PromptDataset.load(cfg.data, split="train", **load)
    has_heldout = heldout_source(cfg.data) is not None
    heldout_set = PromptDataset.load(cfg.data, split="heldout", **load) if has_heldout else None
    train_set, heldout_set = _with_right_golds(verifiers, train_set, heldout_set, cfg=cfg.data)
    models.rehearsal.require_window(
        longest_prompt=train_set.longest_prompt, max_tokens=cfg.rollout.max_tokens
    )
    _require_readable(train_set, models.rewards, policy_path=model_path)
    return RLPlan(
        cfg=cfg,
        model_path=model_path,
        device=device,
        generator=generator,
        verifiers=verifiers,
        roles=roles_of(
            cfg,
            models=models,
            generator=generator,
            verifiers=verifiers,
            directory=directory,
            device=device,
        ),
        train_set=train_set,
        heldout_set=heldout_set,
        interruption=interruption,
    )


def _require_readable(
    prompts: PromptDataset, reward_paths: dict[str, str], *, policy_path: str
) -> None:
    """Refuse prompts that a reward model cannot be shown; looks at some, spread evenly."""
    for name, path in reward_paths.items():
        reader = RewardReader(model_path=path, policy_path=policy_path, name=name)
        for row in range(0, len(prompts), max(1, len(prompts) // READ_PROMPTS)):
            reader.check(prompts.prompt(0, row))


def _with_right_golds(
    verifiers: dict[str, VerifierConfig],
    train_set: PromptDataset,
    heldout_set: PromptDataset | None,
    *,
    cfg: DataConfig,
) -> tuple[PromptDataset, PromptDataset | None]:
    """Try some rows' answers against themselves; refuse or leave out the rows that fail."""
    given = (train_set,) if heldout_set is None else (train_set, heldout_set)
    prompts = [rows.prompt(0, row) for rows in given for row in sampled_rows(len(rows))]
    failed = failed_golds(verifiers, prompts)
    if not failed:
        return train_set, heldout_set
    if cfg.on_bad_row is OnBadRow.error:
        raise DataError(f"{failed[0]}, or leave such rows out with data.on_bad_row=skip")
    reasons = {each.address: str(each) for each in failed}
    kept = [rows.without(reasons) for rows in given]
    return kept[0], kept[1] if len(kept) > 1 else None
