"""What sampling from a policy needs to know before anything starts: prompts, engines and judges.

Owns the checks that need files, the policy and the machine. Refuses to own processes
(own_samples.py) and what is learned. Invariant: everything that can be refused is refused here,
before a file is written or a process started.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from rlpost.cluster.session import Device
from rlpost.data.bad_rows import OnBadRow
from rlpost.data.dataset import DataConfig, PromptDataset, heldout_source
from rlpost.errors import DataError, UserError
from rlpost.models.shape import model_shape
from rlpost.models.vocabulary import require_in_vocabulary
from rlpost.rollout.device_defaults import shortest_length
from rlpost.rollout.generator_config import AdapterCapacity, GeneratorConfig
from rlpost.rollout.interruption import Interruption
from rlpost.stages.estimate import response_bytes
from rlpost.stages.policy import CheckedPolicy
from rlpost.stages.sampling.generator_settings import (
    adapter_capacity,
    check_deadlines,
    resolve_generator,
    resolve_pushed,
)
from rlpost.training.reward.reader import RewardReader
from rlpost.verifiers.admission import refusal_of_row, required_columns
from rlpost.verifiers.base import VerifierConfig
from rlpost.verifiers.check import check as check_verifiers
from rlpost.verifiers.golds import failed_golds, sampled_rows

log = logging.getLogger(__name__)

READ_PROMPTS = 256  # about so many are tried with every reward model's template


@dataclass(frozen=True, kw_only=True)
class SamplingPlan:
    """Prompts that passed every check, and who answers and judges them."""

    model_path: str
    data: DataConfig
    generator: GeneratorConfig  # with dtype, threads and length resolved
    verifiers: dict[str, VerifierConfig]  # none where reward models judge alone, or nobody does
    train_set: PromptDataset
    heldout_set: PromptDataset | None
    interruption: Interruption | None  # of training responses
    adapters: AdapterCapacity | None  # in each engine; None: whole models are pushed

    @property
    def mean_prompt(self) -> int:
        """Tokens of a training prompt, by the first ones."""
        rows = range(min(len(self.train_set), 256))
        return sum(len(self.train_set.prompt(0, row).token_ids) for row in rows) // len(rows)

    def samples_bytes(self, cfg: Any, *, prompts_per_step: int) -> int:
        """Return what all steps write to ``rollouts/``, if every response gets as long as it may.

        Args:
            cfg: options of the stage, with the number of steps.
            prompts_per_step: groups of a step.
        """
        responses = prompts_per_step * cfg.rollout.group_size * cfg.trainer.steps
        return responses * response_bytes(cfg.rollout.max_tokens)

    def log_rows(self) -> None:
        """Say which rows were left out, and why, and what is both trained on and held out."""
        for dataset in filter(None, (self.train_set, self.heldout_set)):
            if dataset.skipped:
                log.warning("%s: skipped %d rows", dataset.name, len(dataset.skipped))
            for reason in dataset.skipped:
                log.info("skipped: %s", reason)
        if self.heldout_set and (shared := self.heldout_set.num_asked_in(self.train_set)):
            log.warning(
                "%d of the %d held-out prompts are also trained on, so their score is in part "
                "memory",
                shared,
                len(self.heldout_set),
            )


def plan_sampling(
    cfg: Any,
    data: DataConfig,
    *,
    policy: CheckedPolicy,
    rewards: Mapping[str, str],
    device: Device,
    room: int,
    measures_answers: bool = False,
) -> SamplingPlan:
    """Check everything that can be checked without starting anything.

    Args:
        cfg: options of a stage that samples, such as ``RLConfig``; checked by its rules.
        data: where prompts come from.
        policy: what answers.
        rewards: path of each reward model.
        device: where models will run.
        room: tokens that a micro-batch leaves for a prompt.
        measures_answers: the stage measures answers to held-out prompts itself, so that they need
            no verifier.

    Raises:
        UserError, DataError: something the user can fix.
    """
    generator = _generator(cfg, policy, device=device)
    interruption = Interruption.of(
        cfg.rollout.interruption,
        encode=partial(policy.tokenizer.encode, add_special_tokens=False),
        max_tokens=cfg.rollout.max_tokens,
    )
    adapters = adapter_capacity(
        policy.adapter,
        architecture=policy.directory.config.architectures[0],
        has_experts=model_shape(policy.path).experts is not None,
        device=device,
        max_staleness=cfg.rl.max_staleness,
    )
    generator = resolve_pushed(
        generator, cfg, device=device, adapters=adapters, runs_ahead=cfg.rl.runs_ahead
    )
    assert generator.max_model_len is not None
    verifiers = check_verifiers(cfg.all_verifiers) if cfg.all_verifiers else {}
    heldout = None
    if verifiers or measures_answers:
        heldout = heldout_source(data)
    else:
        _require_no_heldout(data)
    load = partial(
        PromptDataset.load,
        data,
        tokenizer=policy.tokenizer,
        max_prompt_tokens=min(room, generator.max_model_len - cfg.rollout.max_tokens),
        seed=cfg.seed,
        columns=required_columns(verifiers),
        refuse=partial(refusal_of_row, verifiers, cfg.combination.deciding),
    )
    train_set, heldout_set = load(split="train"), load(split="heldout") if heldout else None
    train_set, heldout_set = _with_right_golds(verifiers, train_set, heldout_set, cfg=data)
    generator = shortest_length(
        generator,
        given=cfg.generator.max_model_len,
        on_gpu=device is Device.cuda,
        longest_prompt=max(rows.longest_prompt for rows in (train_set, heldout_set) if rows),
        max_tokens=cfg.rollout.max_tokens,
    )
    policy.rehearsal.require_reach(
        longest_prompt=train_set.longest_prompt, max_tokens=cfg.rollout.max_tokens
    )
    _require_readable(train_set, rewards, policy_path=policy.path)
    return SamplingPlan(
        model_path=policy.path,
        data=data,
        generator=generator,
        verifiers=verifiers,
        train_set=train_set,
        heldout_set=heldout_set,
        interruption=interruption,
        adapters=adapters,
    )


def _generator(cfg: Any, policy: CheckedPolicy, *, device: Device) -> GeneratorConfig:
    """Return the generators' options, resolved.

    Raises:
        UserError: the model does not go with them, or knows no such stop token.
    """
    require_in_vocabulary(
        cfg.rollout.stop_token_ids,
        size=model_shape(policy.path).vocabulary,
        field="rollout.stop_token_ids",
    )
    check_deadlines(cfg, device=device)
    return resolve_generator(
        cfg.generator,
        cluster=cfg.cluster,
        device=device,
        model_path=policy.path,
        max_tokens=cfg.rollout.max_tokens,
        field="rollout.max_tokens",
        trainer=cfg.trainer,
    )


def _require_no_heldout(data: DataConfig) -> None:
    """Raises UserError: held-out prompts are named, and no verifier is there to judge them."""
    if data.heldout is not None:
        raise UserError(
            f"data.heldout={data.heldout} has no effect without a verifier: reward models judge "
            "what is learned, and verifiers what is held out; leave it out, or add a verifier that "
            "only measures, with verifier=KIND verifier.weight=0"
        )


def _require_readable(
    prompts: PromptDataset, reward_paths: Mapping[str, str], *, policy_path: str
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
