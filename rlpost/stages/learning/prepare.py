"""What every stage that learns from a data set looks at before it starts.

Owns the preparation of the policy, the device, the longest example, the rows and the number of
steps. Refuses to own what a row becomes (the encoder that a stage makes) and who exists (a stage's
roles). Invariant: nothing is written but the cache of encoded rows, and nothing is started.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from rlpost.cluster.session import Device, resolve_device
from rlpost.data.bad_rows import OnLong
from rlpost.data.conversation.preflight import as_json, preflight
from rlpost.data.example import Example, ExampleEncoder
from rlpost.data.mixture import Mixture
from rlpost.data.splits import Splits, load_splits
from rlpost.errors import UserError
from rlpost.models.directory.config_file import ModelKind
from rlpost.models.locate import context_length
from rlpost.models.stops import stop_token_ids
from rlpost.stages.learning.settings import HeldoutConfig
from rlpost.stages.policy import CheckedPolicy, check_policy
from rlpost.stages.results import require_measured
from rlpost.stages.roles import Role, trained_role
from rlpost.stages.run_directory import RunDirectory
from rlpost.stages.sampling.suite_settings import require_own_schedule
from rlpost.stages.sampling.suites import SuitesPlan, plan_suites
from rlpost.training.model.loading import TrainedModel
from rlpost.training.settings import TrainerConfig

E = TypeVar("E", bound=ExampleEncoder)

SHOWN_ROWS = 3  # of each source


@dataclass(frozen=True, kw_only=True)
class Foundation:
    """The policy of a run that learns from a data set, where it trains, and how long rows may be.

    Example::

        base = Foundation.of(cfg, device=device)
        cfg, splits = base.load(base.encoder(MyEncoder), measured=names)
    """

    cfg: Any  # of a stage: ``LearnedDataConfig`` and ``LearningConfig``
    policy: CheckedPolicy
    device: Device
    suites: SuitesPlan | None = None  # that generators answer; None: there are none

    @classmethod
    def of(
        cls, cfg: Any, *, device: Device | None, kind: ModelKind = ModelKind.policy
    ) -> "Foundation":
        """Look at the policy; ``device`` None: what this machine has.

        Raises:
            UserError: the model cannot be trained as ``kind``, or there is no such device.
        """
        policy = check_policy(
            cfg.model,
            cfg.adapter,
            template_variables=cfg.data.chat_template_kwargs,
            kind=kind,
        )
        return cls(cfg=cfg, policy=policy, device=device or resolve_device(cfg.cluster))

    def with_suites(self, directory: RunDirectory) -> "Foundation":
        """Look at the suites of a ``ScoredLearningConfig`` as well; see ``plan_suites``."""
        suites = plan_suites(self.cfg, policy=self.policy, device=self.device, directory=directory)
        return replace(self, suites=suites)

    def trained_role(self, cfg: Any, model: TrainedModel) -> Role:
        """Return the ranks that train ``model``; ``cfg`` has the number of steps."""
        return trained_role(
            "trainer",
            cfg.trainer,
            model=model,
            seed=cfg.seed,
            # None: nothing generates, so nothing is pushed
            make_sender=None if self.suites is None else self.suites.make_sender,
            cluster=cfg.cluster,
            device=self.device,
            optimizer=cfg.optimizer,
        )

    @property
    def suite_roles(self) -> Sequence[Role]:
        """Who answers and judges suites: the last roles of a run."""
        return () if self.suites is None else self.suites.roles

    @property
    def longest(self) -> int:
        """Tokens that an example may have: the model's context, or a micro-batch."""
        return longest_example(self.policy, self.cfg.trainer)

    @property
    def truncate_to(self) -> int | None:
        """Where an encoder cuts; None: longer examples are an error, or left out, by the corpus."""
        if self.cfg.data.on_long is not OnLong.truncate:
            return None
        return min(self.longest, self.cfg.data.max_tokens or self.longest)

    def refuse_above(self, *, bounded: bool = True) -> int | None:
        """Return above how many tokens an encoder refuses a row at once; None: it does not.

        ``bounded`` is that of ``load``.
        """
        data = self.cfg.data
        if data.on_long is not OnLong.error:
            return None
        if not bounded:
            return data.max_tokens
        return min(self.longest, data.max_tokens or self.longest)

    def encoder(self, kind: Callable[..., E], **own: Any) -> E:
        """Return an encoder of this kind for the policy; ``own`` are its own options."""
        return kind(
            self.policy.tokenizer,
            truncate_to=self.truncate_to,
            refuse_above=self.refuse_above(),
            stop_ids=stop_token_ids(self.policy.directory),
            **own,
        )

    def load(
        self,
        encoder: ExampleEncoder,
        *,
        measured: Callable[[Iterable[str]], list[str]],
        bounded: bool = True,
    ) -> tuple[Any, Splits]:
        """Return the options with the number of steps, and the rows.

        Args:
            encoder: makes examples of rows.
            measured: returns what an evaluation measures on held-out sources of these names.
            bounded: an example must fit into the model's context and a micro-batch.

        Raises:
            UserError: a setting is wrong, has no effect, or a source does not exist.
            DataError: a row is bad or too long (unless skipped), or no row is left.
            InfrastructureError: a process that encodes died.
        """
        cfg = self.cfg
        splits = load_splits(
            cfg.data,
            encoder=encoder,
            seed=cfg.seed,
            max_tokens=self.longest if bounded else None,
            more_tokens=more_tokens(self.policy, cfg.trainer),
        )
        steps = splits.train.steps(
            epochs=cfg.trainer.epochs or 1, rows_per_step=cfg.examples_per_step
        )
        cfg = replace(cfg, trainer=cfg.trainer.of_steps(steps))
        require_measured(cfg, [*measured(splits.heldout), *self._of_suites()])
        if not splits.heldout:
            self._require_use_of_schedule()
        return cfg, splits

    def _require_use_of_schedule(self) -> None:
        """Refuse a schedule of evaluations that has nothing to measure."""
        evaluation = self.cfg.evaluation
        if self.suites is not None:
            require_own_schedule(evaluation)
        elif evaluation.every != HeldoutConfig().every:
            raise UserError(
                f"evaluation.every={evaluation.every} has no effect: no rows are held out; "
                "leave it out, or set data.heldout=FILE or data.heldout_fraction=0.05"
            )

    def _of_suites(self) -> Sequence[str]:
        return () if self.suites is None else self.suites.measured


def longest_example(policy: CheckedPolicy, trainer: TrainerConfig) -> int:
    """Return how many tokens an example may have: the model's context, or a micro-batch.

    What an adapter puts in front of it is a part of both.
    """
    limit = min(context_length(policy.path), trainer.max_tokens_per_micro_batch)
    if policy.rehearsal.reach is not None:
        limit = min(limit, policy.rehearsal.reach)
    adapter = None if policy.adapter is None else policy.adapter.config
    return limit - getattr(adapter, "num_virtual_tokens", 0)


def more_tokens(policy: CheckedPolicy, trainer: TrainerConfig) -> str:
    """Return how an example may be longer than ``longest_example``."""
    if longest_example(policy, trainer) < trainer.max_tokens_per_micro_batch:
        return "use a model with a longer context"
    return "raise trainer.max_tokens_per_micro_batch, which holds each example as a whole"


def _unjudged(examples: Sequence[Example]) -> list[str]:
    return [""] * len(examples)


def shown_examples(
    train: Mixture,
    tokenizer: Any,
    *,
    judgements: Callable[[Sequence[Example]], list[str]] = _unjudged,
) -> Sequence[Mapping[str, Any]]:
    """Return the first examples of each source with what is trained of them marked.

    Args:
        train: the sources.
        tokenizer: reads the tokens.
        judgements: returns what is said of each example of a row, such as which is the better one.
    """
    found = []
    for name, corpus in train.corpora.items():
        for examples in map(corpus.examples, range(min(SHOWN_ROWS, len(corpus)))):
            marked = as_json(preflight(examples, tokenizer))
            found += [
                {"source": name, "judgement": judgement, **each}
                for judgement, each in zip(judgements(examples), marked, strict=False)
            ]
    return found
