"""Preference learning as it runs: who is asked what, and the job.

Owns the start of the parts. Refuses to own the batch (batch.py), what models say of it (models.py)
and the losses (algorithms/preference/). Invariant: whatever a reference says is said by the weights
that training starts from, or by the frozen model that the options name.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import groupby
from typing import Any

from rlpost.data.corpus.corpus import Corpus
from rlpost.data.example import Example
from rlpost.stages.fit import Fit
from rlpost.stages.learning.begin import DrawnRows, begin, fit_of
from rlpost.stages.preference.config import ReferenceMode
from rlpost.stages.preference.heldout import HeldoutPreferences
from rlpost.stages.preference.mismatched import Mismatched
from rlpost.stages.preference.models import ModelColumns
from rlpost.stages.preference.prepare import PreferencePlan
from rlpost.stages.preference.reference import (
    LiveReference,
    PrecomputedReference,
    Reference,
    Score,
)
from rlpost.stages.run import Run
from rlpost.stages.sampling.suites import SuiteEngines, SuiteScores
from rlpost.stages.start_reference import (
    first_sequences,
    require_same_start,
    score_beside,
    start_reference,
)
from rlpost.training.packing.pack import Packed
from rlpost.training.precision import resolve_dtype

_MISMATCHED, _HELDOUT = "mismatched/", "heldout/"  # before the name of a source, in a uid
Rows = list[list[Example]]


@asynccontextmanager
async def boot(plan: PreferencePlan, run: Run) -> AsyncIterator[Fit]:
    """Start the roles, ask the reference what it says before the first step, and yield the job.

    Raises:
        UserError: not every actor fits into the cluster, or the checkpoint is of other data.
        InfrastructureError: an actor did not come up.
    """
    async with SuiteEngines(plan.suites, plan.cfg, run, model_path=plan.model_path) as engines:
        groups, rows = await begin(plan, run, supervised=engines.boot)
        own = engines.without_own(groups)
        yield await _fit(plan, run, rows, own, suites=engines.scores(groups))


async def _fit(
    plan: PreferencePlan,
    run: Run,
    rows: DrawnRows,
    groups: Sequence[Any],
    *,
    suites: SuiteScores | None,
) -> Fit:
    """Return the job of the policy and, if there is one, the reference: ``groups``."""
    cfg = plan.cfg
    policy, *frozen = groups
    score = policy.score  # of the start, which it is until the first step
    if cfg.loss.needs_reference and (frozen or cfg.reference.mode is ReferenceMode.live):
        reference = start_reference(frozen[0] if frozen else None, policy=policy)
        score = score_beside(reference, policy=policy, cfg=cfg.cluster)
        if plan.has_adapter and cfg.reference.path is None:
            sequences = first_sequences(plan.splits)
            await require_same_start(score, policy=policy, sequences=sequences, cfg=cfg.trainer)
    held = {name: heldout_rows(name, corpus) for name, corpus in plan.splits.heldout.items()}
    wrong = _mismatched_rows(plan) if cfg.loss.needs_kl else None
    models = ModelColumns(
        reference=await _reference(plan, run, score=score, held=held, wrong=wrong),
        mismatched=wrong,
        score=policy.score,
        packer=plan.packer,
    )

    async def batch() -> Packed:
        examples = rows.take()
        kl = await models.reference_point(examples)
        return await models.attach(plan.packer(examples), examples, kl=kl)

    heldout = HeldoutPreferences(
        policy=policy,
        objective=plan.objective,
        packer=replace(plan.packer, fill=True),
        models=models,
        sources=held,
        progress=run.progress,
    )
    return fit_of(plan, run, rows, policy=policy, batch=batch, heldout=heldout, suites=suites)


async def _reference(
    plan: PreferencePlan,
    run: Run,
    *,
    score: Score,
    held: dict[str, Rows],
    wrong: Callable[[Sequence[Example]], Rows] | None,
) -> Reference | None:
    """Return who says what the reference finds; None for a loss that compares with none."""
    cfg = plan.cfg
    if not cfg.loss.needs_reference:
        return None
    if cfg.reference.mode is ReferenceMode.live:
        return LiveReference(score=score)
    reference = PrecomputedReference(
        path=run.directory.reference,
        identity=reference_identity(plan),
        continues=run.resume_from is not None,
    )

    assert cfg.trainer.steps is not None, "the plan has the number of steps"
    drawn = plan.splits.train.ahead(cfg.trainer.steps * cfg.examples_per_step)

    def needed() -> Iterator[list[Example]]:
        for row in (*drawn, *(row for each in held.values() for row in each)):
            yield row
            yield from wrong(row) if wrong is not None else ()

    await reference.complete(needed(), score=score, packer=plan.packer, progress=run.progress)
    return reference


def reference_identity(plan: PreferencePlan) -> dict[str, Any]:
    """Return all that decides what a reference says of the rows.

    Paths are no part of it: other weights may lie there since the log-probs were computed.
    """
    identity: dict[str, Any] = {
        "rows": {name: corpus.fingerprint for name, corpus in _corpora(plan).items()},
        "weights": dict(plan.compared_with),
        "dtype": str(resolve_dtype(plan.cfg.trainer.dtype)),
        "adapter": plan.cfg.adapter.kind,  # which may keep the base in 4 bits
    }
    if plan.cfg.loss.needs_kl:  # mismatched completions are cut there
        identity["longest"] = plan.longest
    return identity


def _corpora(plan: PreferencePlan) -> dict[str, Corpus]:
    """Return the rows to learn and those held out, by the names in their uids."""
    held = {f"{_HELDOUT}{name}": corpus for name, corpus in plan.splits.heldout.items()}
    return {**plan.splits.train.corpora, **held}


def heldout_rows(name: str, corpus: Corpus) -> Rows:
    """Return the examples of each held-out row, with uids that no row to learn has."""
    return [corpus.examples(row, uid=f"{_HELDOUT}{name}:0:{row}") for row in range(len(corpus))]


def _mismatched_rows(plan: PreferencePlan) -> Callable[[Sequence[Example]], Rows]:
    """Return what gives the mismatched completions of examples, row by row; see mismatched.py."""
    partners = {
        name: Mismatched(corpus.examples, num_rows=len(corpus), max_tokens=plan.longest)
        for name, corpus in _corpora(plan).items()
    }

    def of_rows(examples: Sequence[Example]) -> Rows:
        found = []
        for uid, _ in groupby(each.uid for each in examples):
            name, _, row = uid.rsplit(":", 2)
            joined = partners[name](int(row))
            found.append([replace(each, uid=f"{_MISMATCHED}{uid}") for each in joined])
        return [each for each in found if each]

    return of_rows
