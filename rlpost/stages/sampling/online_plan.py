"""What the plans of stages that learn from the policy's own samples have in common.

Owns the check of the policy, the number of steps, the use of a schedule of evaluations, and who
trains, answers and judges. Refuses
to own the checks of prompts, engines and judges (plan.py) and what is trained.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rlpost.cluster.session import Device
from rlpost.errors import UserError
from rlpost.evaluation.scores import measured_names
from rlpost.stages.learning.settings import HeldoutConfig
from rlpost.stages.policy import CheckedPolicy, check_policy
from rlpost.stages.results import require_measured
from rlpost.stages.roles import Role, trained_role
from rlpost.stages.run_directory import RunDirectory
from rlpost.stages.sampling.backend import require_architecture
from rlpost.stages.sampling.generation import generators_role, pushed_pages
from rlpost.stages.sampling.plan import SamplingPlan
from rlpost.stages.sampling.verifiers_role import verifiers_role
from rlpost.training.model.loading import TrainedModel
from rlpost.weights.publisher import sender_factory


def answering_policy(cfg: Any) -> CheckedPolicy:
    """Look at a policy that generators serve as well; ``cfg`` are options of the stage.

    Raises:
        UserError: it cannot be trained, or vLLM does not serve its architecture.
    """
    policy = check_policy(cfg.model, cfg.adapter, template_variables=cfg.data.chat_template_kwargs)
    directory = policy.directory
    require_architecture(cfg.generator, directory.config.architectures[0], field=directory.field)
    return policy


def with_steps(cfg: Any, sampling: SamplingPlan, *, measured: Sequence[str] = ()) -> Any:
    """Return the options with the number of steps.

    Args:
        cfg: options of the stage; ``examples_per_step`` are prompts.
        sampling: the prompts.
        measured: what an evaluation measures beside rewards.

    Raises:
        UserError: a metric is not measured, or a schedule has nothing to measure.
    """
    steps = len(sampling.train_set) * (cfg.trainer.epochs or 1) / cfg.examples_per_step
    cfg = replace(cfg, trainer=cfg.trainer.of_steps(math.ceil(steps)))
    evaluation, held = cfg.evaluation, sampling.heldout_set
    rewards = held is not None and bool(sampling.verifiers)
    names = measured_names(held.name, samples=evaluation.samples) if held and rewards else []
    require_measured(cfg, [*names, *measured] if held is not None else [])
    if held is None and evaluation.every != HeldoutConfig().every:
        raise UserError(
            f"evaluation.every={evaluation.every} has no effect: no prompts are held out; leave "
            "it out, or set data.heldout=FILE"
        )
    return cfg


def learning_role(
    cfg: Any,
    model: TrainedModel,
    sampling: SamplingPlan,
    *,
    directory: RunDirectory,
    device: Device,
) -> Role:
    """Return the ranks that train ``model`` and push it; ``cfg`` are options of the stage."""
    sender = sender_factory(
        cfg.weights,
        run_id=directory.host_wide_id,
        root=directory.root / ".weights",
        on_gpu=device is Device.cuda,
    )
    return trained_role(
        "trainer",
        cfg.trainer,
        model=model,
        seed=cfg.seed,
        cluster=cfg.cluster,
        device=device,
        make_sender=sender,
        sends=pushed_pages(model.path, cfg.trainer, sampling.adapters),
        optimizer=cfg.optimizer,
    )


def answering_roles(
    cfg: Any, sampling: SamplingPlan, *, policy: CheckedPolicy, device: Device
) -> list[Role]:
    """Return the generators, and the verifiers if there are any: the last roles of a run."""
    generators = generators_role(
        sampling.generator, model_path=policy.path, device=device, adapters=sampling.adapters
    )
    if not sampling.verifiers:
        return [generators]
    return [
        generators,
        verifiers_role(cfg.cluster, sampling.verifiers, tokenizer=policy.tokenizer),
    ]
