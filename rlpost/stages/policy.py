"""A policy, and a frozen model that scores its tokens, looked at before anything starts.

Owns what is asked of every policy, and of every frozen causal language model beside one. Refuses to
own the questions (models/, training/model/rehearsal.py) and what a stage asks beyond them.
Invariant: a model that passes can be loaded, trained on packed tokens and exported, as far as can
be known without its weights.
"""

from dataclasses import dataclass, replace
from typing import Any

from rlpost.config.schema import ModelConfig
from rlpost.data.template_variables import fix_template_variables
from rlpost.models.directory.config_file import ModelKind
from rlpost.models.directory.model_directory import ModelDirectory
from rlpost.models.export import try_export
from rlpost.models.locate import locate_model
from rlpost.models.vocabulary import require_same_vocabulary
from rlpost.training.adapters.adaptation import Adaptation
from rlpost.training.adapters.planning import plan_adaptation
from rlpost.training.model.loading import TrainedModel
from rlpost.training.model.rehearsal import Rehearsal, rehearse


@dataclass(frozen=True, kw_only=True)
class CheckedPolicy:
    """A policy that passed."""

    directory: ModelDirectory
    tokenizer: Any
    rehearsal: Rehearsal
    adapter: Adaptation | None  # what is put on it

    @property
    def path(self) -> str:
        return str(self.directory.path)


def check_policy(
    model: ModelConfig,
    adapter: Any,
    *,
    template_variables: dict[str, Any],
    kind: ModelKind = ModelKind.policy,
) -> CheckedPolicy:
    """Locate and check the model that the options name, and what is put on it.

    Args:
        model: the policy to start from.
        adapter: options of the adapter that is trained.
        template_variables: what its chat template is given.
        kind: what it is trained as.

    Raises:
        UserError: it cannot be trained as ``kind``, its template reads no such variable, or the
            adapter does not fit it.
    """
    directory = ModelDirectory.read(locate_model(model.path), kind=kind)
    rehearsal = rehearse(directory.shell())
    directory.checkpoint_shapes()
    tokenizer = directory.tokenizer()
    fix_template_variables(tokenizer, template_variables)
    try_export(directory)
    return CheckedPolicy(
        directory=directory,
        tokenizer=tokenizer,
        rehearsal=rehearsal,
        adapter=plan_adaptation(
            adapter, start=model.adapter, base=directory, name=model.path, kind=kind
        ),
    )


def check_frozen(path: str, *, field: str, beside: TrainedModel) -> tuple[TrainedModel, Rehearsal]:
    """Locate and check the model called ``path``, which scores the tokens of another one.

    Args:
        path: of a causal language model.
        field: where it is configured.
        beside: the policy, whose head it is given.

    Raises:
        UserError: it is none, cannot be packed, or has another tokenizer.
    """
    directory = ModelDirectory.read(locate_model(path, field=field), field=field)
    rehearsal = rehearse(directory.shell(), field=field)
    directory.tokenizer()
    require_same_vocabulary(str(directory.path), beside.path, field=field)
    labels = replace(beside.labels, field=field)
    return replace(beside, path=str(directory.path), labels=labels, adapter=None), rehearsal
