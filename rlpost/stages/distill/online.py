"""Distillation on the student's own samples: the plan, the start of the parts and the batches.

Owns what of the mode is distillation. Refuses to own prompts, engines and judges
(sampling/plan.py), the order of a step (sampling/online_job.py) and the teacher's checks
(teacher.py). Invariants: everything that can be refused is refused in ``prepare_online``; every
token that the student sampled is compared, whatever a verifier says of the response; a prompt that
it does not answer gives the response of its row (given.py).
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from rlpost.algorithms.distill import DistillObjective
from rlpost.cluster.session import Device, resolve_device
from rlpost.data.conversation.encoder import ConversationEncoder
from rlpost.data.dataset import DataConfig
from rlpost.data.example import Example
from rlpost.errors import RunFailed, UserError
from rlpost.models.stops import stop_token_ids
from rlpost.stages.distill.config import DistillConfig
from rlpost.stages.distill.given import GivenResponses
from rlpost.stages.distill.heldout import heldout_divergence, measured_names
from rlpost.stages.distill.teacher import STAGE, Teacher
from rlpost.stages.estimate import Estimate, add_up
from rlpost.stages.learning.prepare import longest_example
from rlpost.stages.policy import CheckedPolicy
from rlpost.stages.roles import Role
from rlpost.stages.run import Run
from rlpost.stages.run_directory import RunDirectory
from rlpost.stages.sampling.examples import sampled_example
from rlpost.stages.sampling.online_job import OnlineJob
from rlpost.stages.sampling.online_plan import (
    answering_policy,
    answering_roles,
    learning_role,
    with_steps,
)
from rlpost.stages.sampling.own_samples import own_samples
from rlpost.stages.sampling.plan import SamplingPlan, plan_sampling
from rlpost.stages.sampling.prompt_stream import prompt_stream
from rlpost.stages.step_record import StepRecord
from rlpost.stages.supervised.batch import ExamplePacker
from rlpost.training.packing.pack import Packed
from rlpost.training.packing.step_size import StepSize
from rlpost.types import Group


@dataclass(frozen=True, kw_only=True)
class OnlineDistillPlan:
    """A run that passed every check; nothing was written or started yet."""

    cfg: DistillConfig  # with the number of steps
    device: Device
    roles: list[Role]  # who exists
    teacher: Teacher
    objective: DistillObjective
    packer: ExamplePacker
    given: GivenResponses | None  # None: the student answers every prompt
    sampling: SamplingPlan

    @property
    def model_path(self) -> str:
        return self.sampling.model_path

    @property
    def data(self) -> DataConfig:
        return self.sampling.data

    @property
    def step_size(self) -> StepSize:
        responses = self.cfg.examples_per_step * self.cfg.rollout.group_size
        return StepSize(
            tokens=responses * (self.sampling.mean_prompt + self.cfg.rollout.max_tokens)
        )


def prepare_online(
    cfg: DistillConfig, *, directory: RunDirectory, device: Device | None = None
) -> OnlineDistillPlan:
    """Check everything that can be checked without starting anything.

    Args:
        cfg: checked by ``check_distill``.
        directory: where the run will live.
        device: where models will run; None: what this machine has.

    Raises:
        UserError, DataError: something the user can fix.
    """
    student = answering_policy(cfg)
    device = device or resolve_device(cfg.cluster)
    teacher = Teacher.of(cfg.teacher, cfg.trainer, student=student)
    sampling = plan_sampling(
        cfg,
        cfg.data.prompts(),
        policy=student,
        rewards={},
        device=device,
        room=_room_of_prompt(cfg),
        measures_answers=True,
    )
    teacher.require_length(sampling.train_set.longest_prompt + cfg.rollout.max_tokens)
    given = _given(cfg, student, longest=teacher.longest)
    if given is not None:
        given.check(sampling.train_set)
    held = sampling.heldout_set
    names = measured_names([] if held is None else [held.name])
    cfg = with_steps(cfg, sampling, measured=names)
    model = teacher.beside(student, cfg.trainer, cfg.distill)
    trainer = learning_role(cfg, model, sampling, directory=directory, device=device)
    return OnlineDistillPlan(
        cfg=cfg,
        device=device,
        roles=[trainer, *answering_roles(cfg, sampling, policy=student, device=device)],
        teacher=teacher,
        objective=DistillObjective(metrics=STAGE),
        packer=ExamplePacker.of(cfg.trainer, aggregation=cfg.reduction, model_path=student.path),
        given=given,
        sampling=sampling,
    )


def _given(cfg: DistillConfig, student: CheckedPolicy, *, longest: int) -> GivenResponses | None:
    """Return the responses of rows; ``longest`` is what the teacher reads."""
    if cfg.data.on_policy_fraction == 1:
        return None
    return GivenResponses(
        encoder=ConversationEncoder(student.tokenizer, stop_ids=stop_token_ids(student.directory)),
        on_policy=cfg.data.on_policy_fraction,
        seed=cfg.seed,
        max_tokens=min(longest, longest_example(student, cfg.trainer)),
    )


def _room_of_prompt(cfg: DistillConfig) -> int:
    """Return the tokens that a micro-batch leaves for the prompt of a response."""
    size, longest = cfg.trainer.max_tokens_per_micro_batch, cfg.rollout.max_tokens
    if size <= longest:
        raise UserError(
            f"trainer.max_tokens_per_micro_batch={size} must hold a prompt and a response of "
            f"rollout.max_tokens={longest} tokens; raise it"
        )
    return size - longest


def estimate_online(plan: OnlineDistillPlan, *, gpu_bytes: float | None) -> Estimate:
    """Add up every process of ``plan``; see ``add_up``."""
    cfg = plan.cfg
    return add_up(
        plan,
        samples_bytes=plan.sampling.samples_bytes(cfg, prompts_per_step=cfg.examples_per_step),
        gpu_bytes=gpu_bytes,
    )


@dataclass(frozen=True, kw_only=True)
class SampleBatches:
    """The ``Batches`` of distillation: every response, every token that was sampled or given."""

    packer: ExamplePacker
    given: GivenResponses | None = None  # of groups without a sample

    async def packed(self, groups: Sequence[Group], record: StepRecord) -> Packed:
        """Return the optimizer batch of all responses."""
        if self.given is None:
            return self.packer(sampled_examples(groups))
        answered = sum(bool(group.episodes) for group in groups)
        record.add({f"{STAGE}/on_policy_fraction": answered / len(groups)})
        examples: list[Example] = []
        for group in groups:
            own = sampled_examples([group])
            examples += own or self.given.examples(group.prompt)
        return self.packer(examples)

    def nothing(self, tried: int) -> RunFailed:
        """Return the error of a step without a response."""
        return RunFailed(f"of {tried} prompts no response can be learned from; run.log has more")


def sampled_examples(groups: Sequence[Group]) -> list[Example]:
    """Return an example for each response."""
    return [sampled_example(group.prompt, each) for group in groups for each in group.episodes]


@asynccontextmanager
async def boot_online(plan: OnlineDistillPlan, run: Run) -> AsyncIterator[OnlineJob]:
    """Start actors side by side, yield the job, close everything.

    Raises:
        UserError: not every actor fits into the cluster.
        InfrastructureError: an actor did not come up.
    """
    cfg, sampling = plan.cfg, plan.sampling
    async with own_samples(plan, run) as own:
        plan.teacher.say_what_is_compared()
        student = own.groups["trainer"]

        async def heldout(answered: Sequence[Group]) -> Mapping[str, float]:
            assert sampling.heldout_set is not None
            sources = {sampling.heldout_set.name: sampled_examples(answered)}
            measure = heldout_divergence(
                policy=student, packer=plan.packer, sources=sources, progress=run.progress
            )
            return await measure()

        parts = own.parts(
            prompts_per_step=cfg.examples_per_step,
            stream=lambda cursor: prompt_stream(
                cfg,
                sampling.train_set,
                cursor,
                useful=lambda group: True,
                max_draws=None,
                answers=lambda prompt: plan.given is None or plan.given.answers(prompt),
            ),
        )
        yield OnlineJob(
            cfg=cfg,
            data=plan.data,
            sampling=parts,
            policy=student,
            objective=plan.objective,
            batches=SampleBatches(packer=plan.packer, given=plan.given),
            heldout=heldout,
        )
