"""Which stages there are and where the parts of each one lie.

Owns the list. Refuses to own the parts, and the curves of each stage (tracking/curves/table.py).
Invariant: nothing is imported before a part is asked for, so that ``rlpost --help`` is instant.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage. Its YAML is ``configs/<name>.yaml``; each part is ``module:name``.

    Example: ``STAGES["rl"].part("config")`` is the class ``RLConfig``.
    """

    name: str
    help: str  # one line
    config: str  # the dataclass that holds all its options
    check: str  # (cfg): refuses impossible combinations of options
    plan: str  # (cfg, *, directory, device): refuses what files and machine cannot do
    # (plan, run): a context manager that starts the parts and yields a ``loop.Job``; None: it needs
    # no session of Ray
    boot: str | None = None
    # (stage, cfg, resolved): the driver process, to its outcome
    drive: str = "rlpost.stages.driver:run_stage"
    estimate: str | None = None  # (plan, *, gpu_bytes): what ``rlpost plan`` shows; None: nothing
    # (plan, on, *, mean_response): StepTime, or None: not known; None: none is said
    timing: str | None = None
    groups: Mapping[str, str] = field(
        default_factory=dict
    )  # ``loss=NAME`` and the like: registries
    # What it can leave to a later stage of a pipeline, the usual first: model, dataset, reward
    makes: tuple[str, ...] = ()
    run_name: str | None = None  # (composed): the name of a run without one; None: the stage's
    outline: str | None = None  # (cfg): what ``rlpost plan`` prints in place of an estimate

    def part(self, name: str) -> Any:
        """Import what the field of that name says."""
        return _imported(getattr(self, name))

    def registries(self) -> dict[str, Any]:
        """Import the registry of every group of choices that are registered, not files."""
        return {group: _imported(place) for group, place in self.groups.items()}


# Of every stage that trains.
_TRAINS = {
    "adapter": "rlpost.training.adapters:adapters",
    "optimizer": "rlpost.training.optimizers:optimizers",
}


def _imported(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)


_RL = Stage(
    name="rl",
    help="reinforcement learning: GRPO and its family, PPO, from verifiers or reward models",
    config="rlpost.config.schema:RLConfig",
    check="rlpost.config.checks:check_rl",
    plan="rlpost.stages.rl.plan:prepare",
    boot="rlpost.stages.rl.boot:boot",
    estimate="rlpost.stages.rl.estimate:estimate",
    timing="rlpost.stages.rl.timing:timing",
    groups={
        **_TRAINS,
        "loss": "rlpost.algorithms.losses:losses",
        "algorithm/advantage": "rlpost.algorithms.advantages:estimators",
        "algorithm/corrections": "rlpost.algorithms.corrections:corrections",
        "verifier": "rlpost.verifiers.kinds:verifiers",
    },
    makes=("model",),
)
_RFT = replace(
    _RL,
    name="rft",
    makes=("model", "dataset"),
    help="rejection-sampling fine-tuning: sample, keep what is good, imitate it",
)

_SFT = Stage(
    name="sft",
    help="supervised fine-tuning: learn the answers of conversations, or completions of prompts",
    config="rlpost.stages.supervised.sft_config:SFTConfig",
    check="rlpost.stages.supervised.sft_config:check_sft",
    plan="rlpost.stages.supervised.sft:prepare",
    boot="rlpost.stages.supervised.likelihood:boot",
    estimate="rlpost.stages.estimate:add_up",
    timing="rlpost.stages.supervised.timing:timing",
    groups={**_TRAINS, "loss": "rlpost.algorithms.supervised:losses"},
    makes=("model",),
)

_PRETRAIN = replace(
    _SFT,
    name="pretrain",
    help="further pre-training: learn documents, mixed with general ones against forgetting",
    config="rlpost.stages.supervised.pretrain_config:PretrainConfig",
    check="rlpost.stages.supervised.pretrain_config:check_pretrain",
    plan="rlpost.stages.supervised.pretrain:prepare",
    timing="rlpost.stages.supervised.timing:timing_of_windows",
    groups=_TRAINS,
)

_PREFERENCE = replace(
    _SFT,
    name="preference",
    help="preference learning: DPO and its family, KTO, from pairs or judged completions",
    config="rlpost.stages.preference.config:PreferenceConfig",
    check="rlpost.stages.preference.config:check_preference",
    plan="rlpost.stages.preference.modes:prepare",
    boot="rlpost.stages.preference.modes:boot",
    estimate="rlpost.stages.preference.modes:estimate",
    timing="rlpost.stages.preference.modes:timing",
    groups={
        **_TRAINS,
        "loss": "rlpost.algorithms.preference:preference_losses",
        "verifier": "rlpost.verifiers.kinds:verifiers",
    },
)

_REWARD = Stage(
    name="reward",
    help="reward models: of whole responses from pairs, or of steps from judged solutions",
    config="rlpost.stages.reward.config:RewardConfig",
    check="rlpost.stages.reward.config:check_reward",
    plan="rlpost.stages.reward.prepare:prepare",
    boot="rlpost.stages.reward.boot:boot",
    estimate="rlpost.stages.estimate:add_up",
    timing="rlpost.stages.learning.timing:timing",
    groups={**_TRAINS, "loss": "rlpost.algorithms.reward:reward_losses"},
    makes=("reward",),
)

_DISTILL = Stage(
    name="distill",
    help="distillation: a student learns a teacher's distributions, on given answers or its own",
    config="rlpost.stages.distill.config:DistillConfig",
    check="rlpost.stages.distill.config:check_distill",
    plan="rlpost.stages.distill.modes:prepare",
    boot="rlpost.stages.distill.modes:boot",
    estimate="rlpost.stages.distill.modes:estimate",
    timing="rlpost.stages.distill.modes:timing",
    groups={**_TRAINS, "verifier": "rlpost.verifiers.kinds:verifiers"},
    makes=("model",),
)

_EVALUATE = Stage(
    name="evaluate",
    help="scores with intervals: suites or your own data, one model or two side by side",
    config="rlpost.stages.evaluate.config:EvaluateConfig",
    check="rlpost.stages.evaluate.config:check_evaluate",
    plan="rlpost.stages.evaluate.plan:prepare",
    boot="rlpost.stages.evaluate.boot:boot",
    drive="rlpost.stages.evaluate.drive:evaluate",
    estimate="rlpost.stages.evaluate.estimate:estimate",
    timing="rlpost.stages.evaluate.timing:timing",
    groups={"verifier": "rlpost.verifiers.kinds:verifiers"},
    makes=("dataset",),
)

_MERGE = Stage(
    name="merge",
    help="one model out of several, or of an adapter and its base, without training",
    config="rlpost.stages.merge.config:MergeConfig",
    check="rlpost.stages.merge.config:check_merge",
    plan="rlpost.stages.merge.plan:prepare",
    drive="rlpost.stages.merge.drive:merge",
    makes=("model",),
)

_PIPELINE = Stage(
    name="pipeline",
    help="a chain of stages from one file, scored on suites, with gates that stop what does harm",
    config="rlpost.stages.pipeline.config:PipelineConfig",
    check="rlpost.stages.pipeline.config:check_pipeline",
    plan="rlpost.stages.pipeline.plan:prepare",
    drive="rlpost.stages.pipeline.drive:run_pipeline",
    run_name="rlpost.stages.pipeline.file:name_of",
    outline="rlpost.stages.pipeline.outline:outline",
)

_SERVE = Stage(
    name="serve",
    help="one base and many adapters behind an OpenAI-compatible server, each adapter proved",
    config="rlpost.stages.serve.config:ServeConfig",
    check="rlpost.stages.serve.config:check_serve",
    plan="rlpost.stages.serve.plan:prepare",
    drive="rlpost.stages.serve.drive:serve",
    outline="rlpost.stages.serve.outline:outline",
)

STAGES = {
    stage.name: stage
    for stage in (
        _RL,
        _RFT,
        _SFT,
        _PRETRAIN,
        _PREFERENCE,
        _REWARD,
        _DISTILL,
        _EVALUATE,
        _MERGE,
        _PIPELINE,
        _SERVE,
    )
}
