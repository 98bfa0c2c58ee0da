"""Everything an evaluation needs to know before anything starts.

Owns the checks that need files, models and the machine. Refuses to own processes (boot.py).
Invariant: everything that can be refused is refused here, before a file is written or a process
started.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rlpost.cluster.session import Device, resolve_device
from rlpost.data.dataset import PromptDataset
from rlpost.data.sources.load import short_name
from rlpost.data.template_variables import fix_template_variables
from rlpost.errors import UserError
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.models.locate import locate_model
from rlpost.models.shape import model_shape
from rlpost.models.tiny import byte_tokenizer
from rlpost.rollout.device_defaults import shortest_length
from rlpost.rollout.generator_config import GeneratorConfig
from rlpost.stages.evaluate.config import BaselineConfig, EvaluateConfig, EvaluatedModelConfig
from rlpost.stages.merge.adapter import MergeableAdapter
from rlpost.stages.roles import Role
from rlpost.stages.run_directory import RunDirectory
from rlpost.stages.sampling.backend import require_architecture
from rlpost.stages.sampling.generation import generators_role
from rlpost.stages.sampling.generator_settings import refuse_sleep, resolve_generator
from rlpost.stages.sampling.judged_source import JudgedSource, load_prompts, suite_source
from rlpost.training.settings import TrainerConfig
from rlpost.verifiers.check import check as check_verifiers

log = logging.getLogger(__name__)

MODEL, BASELINE = "model", "baseline"  # what the models are called in rows
ALL_ITEMS = 10**6  # more than any suite has
# How judges see a conversation with a model behind an endpoint.
SHOWN_TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}\n{% endif %}{% for message in messages %}"
    "{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@dataclass(frozen=True, kw_only=True)
class Examinee:
    """A model and the prompts that it answers, in its own tokens.

    ``generator`` is None for a model behind an endpoint: its prompts are rendered for the judges
    alone, and what it is sent are their messages.
    """

    role: str  # MODEL or BASELINE
    path: str  # of the base, where there is an adapter
    adapter: MergeableAdapter | None  # is merged into a copy of the base, which answers
    generator: GeneratorConfig | None  # with dtype, threads and length resolved
    decode: Callable[[Sequence[int]], str]
    prompts: dict[str, PromptDataset]  # by the name of the source


@dataclass(frozen=True, kw_only=True)
class EvaluatePlan:
    """An evaluation that passed every check; nothing was written or started yet."""

    cfg: EvaluateConfig
    device: Device
    sources: tuple[JudgedSource, ...]
    examinees: tuple[Examinee, ...]

    @property
    def roles(self) -> list[Role]:
        """The generators of the larger model; those of the other take the same slots."""
        local = [each for each in self.examinees if each.generator is not None]
        if not local:
            return []
        largest = max(local, key=lambda each: model_shape(each.path).parameters)
        assert largest.generator is not None
        return [
            generators_role(
                largest.generator, model_path=largest.path, device=self.device, pushed=False
            )
        ]


def prepare(
    cfg: EvaluateConfig, *, directory: RunDirectory, device: Device | None = None
) -> EvaluatePlan:
    """Check everything that can be checked without starting anything.

    Args:
        cfg: checked by ``check_evaluate``.
        directory: where the evaluation will live; what it holds changes nothing here.
        device: where models will run; None: what this machine has.

    Raises:
        UserError, DataError: something the user can fix.
    """
    device = device or resolve_device(cfg.cluster)
    sources = tuple(_sources(cfg))
    if cfg.endpoint.url is not None:
        remote = _remote(cfg, sources)
        return EvaluatePlan(cfg=cfg, device=device, sources=sources, examinees=(remote,))
    given = {MODEL: cfg.model, BASELINE: cfg.baseline}
    examinees = tuple(
        _examinee(role, model, cfg=cfg, sources=sources, device=device)
        for role, model in given.items()
        if model.path is not None
    )
    _require_same_rows(examinees)
    return EvaluatePlan(cfg=cfg, device=device, sources=sources, examinees=examinees)


def _sources(cfg: EvaluateConfig) -> list[JudgedSource]:
    found = []
    for name in cfg.chosen_suites:
        found.append(suite_source(name, cfg.data.of(f"suite:{name}", size=ALL_ITEMS)))
    if cfg.data.heldout is not None:
        name = short_name(cfg.data.heldout)
        if name in cfg.chosen_suites:
            raise UserError(
                f"data.heldout={cfg.data.heldout} would have the name of the suite {name} in "
                "metrics; rename the file, or leave the suite out of suites"
            )
        found.append(
            JudgedSource(
                name=name,
                data=cfg.data.of(cfg.data.heldout, size=cfg.data.heldout_size),
                verifiers=check_verifiers(cfg.all_verifiers),
                combination=cfg.combination,
            )
        )
    return found


def _examinee(
    role: str,
    given: EvaluatedModelConfig | BaselineConfig,
    *,
    cfg: EvaluateConfig,
    sources: Sequence[JudgedSource],
    device: Device,
) -> Examinee:
    field = f"{role}.path"
    assert given.path is not None
    directory = ModelDirectory.read(locate_model(given.path, field=field), field=field)
    require_architecture(cfg.generator, directory.config.architectures[0], field=field)
    directory.checkpoint_shapes()
    tokenizer, path = directory.tokenizer(), str(directory.path)
    fix_template_variables(tokenizer, cfg.data.chat_template_kwargs)
    refuse_sleep(cfg.generator)
    generator = resolve_generator(
        cfg.generator,
        cluster=cfg.cluster,
        device=device,
        model_path=path,
        max_tokens=cfg.max_tokens,
        field="max_tokens",
        trainer=TrainerConfig(),
    )
    assert generator.max_model_len is not None
    longest = generator.max_model_len - cfg.max_tokens
    prompts = {each.name: load_prompts(each, tokenizer, longest=longest) for each in sources}
    adapter = None
    if given.adapter is not None:
        adapter = MergeableAdapter.find(
            given.adapter, base=given.path, runs=cfg.run.dir, field=f"{role}.adapter"
        )
    return Examinee(
        role=role,
        path=path,
        adapter=adapter,
        generator=shortest_length(
            generator,
            given=cfg.generator.max_model_len,
            on_gpu=device is Device.cuda,
            longest_prompt=max(rows.longest_prompt for rows in prompts.values()),
            max_tokens=cfg.max_tokens,
        ),
        decode=_decoding(tokenizer),
        prompts=prompts,
    )


def _remote(cfg: EvaluateConfig, sources: Sequence[JudgedSource]) -> Examinee:
    """Return the model behind the endpoint, whose tokens nobody knows here: bytes stand in."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = SHOWN_TEMPLATE
    return Examinee(
        role=MODEL,
        path=cfg.answered_by,
        adapter=None,
        generator=None,
        decode=_decoding(tokenizer),
        prompts={each.name: load_prompts(each, tokenizer, longest=None) for each in sources},
    )


def _decoding(tokenizer: Any) -> Callable[[Sequence[int]], str]:
    return partial(tokenizer.decode, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _require_same_rows(examinees: Sequence[Examinee]) -> None:
    """Refuse a comparison in which one model skipped rows that the other can read."""
    if len(examinees) < 2:
        return
    first, second = examinees
    for name, rows in first.prompts.items():
        other = second.prompts[name]
        mine = {rows.prompt(0, row).address for row in range(len(rows))}
        theirs = {other.prompt(0, row).address for row in range(len(other))}
        if mine != theirs:
            lone = sorted(mine ^ theirs)
            raise UserError(
                f"data.on_long_prompt=skip leaves {len(lone)} rows of {name} to one model alone, "
                f"first {lone[0]}; a comparison needs the same rows: leave them out of the data, "
                "or lower max_tokens"
            )
