"""The suites of a pipeline, scored on one model after another.

Owns the reading of what ``rlpost evaluate`` wrote. Refuses to own the scoring and the decision.
Invariant: every model answers the same items under the same seeds; an item without an answer counts
as not known.
"""

from collections.abc import Sequence

from rlpost.data.sources.load import short_name
from rlpost.evaluation.metrics import best_at_k
from rlpost.pipeline.spec import SuiteSpec
from rlpost.stages.evaluate.answers_file import AnswersFile
from rlpost.stages.pipeline.overrides import BUNDLED, group_name, is_plain_bundle
from rlpost.stages.pipeline.places import Places
from rlpost.stages.run_directory import RunDirectory


def values_of(
    places: Places, model: str, suite: SuiteSpec, groups: Sequence[Sequence[SuiteSpec]]
) -> dict[str, list[float | None]]:
    """Return the values of every item that a model answered of a suite.

    Values are the rewards of the samples; for ``pass@K`` and ``best@K`` with K above 1 each item
    has one, which is not known where a reward is not.
    """
    group = next(each for each in groups if suite in each)
    run = RunDirectory(root=places.scores(model) / group_name(group))
    dataset = _dataset(suite)
    found = {
        uid: [answer.reward for answer in answers]
        for (_, name, uid), answers in AnswersFile(
            run.evaluation, samples=suite.samples
        ).items.items()
        if name == dataset
    }
    if suite.k is None or suite.k == 1:
        return found
    return {uid: [_at_k(rewards, suite.k)] for uid, rewards in found.items()}


def _at_k(rewards: Sequence[float | None], k: int) -> float | None:
    known = [each for each in rewards if each is not None]
    return best_at_k(known, k) if len(known) == len(rewards) else None


def _dataset(suite: SuiteSpec) -> str:
    if is_plain_bundle(suite):
        return suite.data.removeprefix(BUNDLED)
    return short_name(suite.data)


def prompts_of(places: Places, model: str, groups: Sequence[Sequence[SuiteSpec]]) -> set[str]:
    """Return the prompts of every suite, as the answers of a model show them."""
    found: set[str] = set()
    for group in groups:
        run = RunDirectory(root=places.scores(model) / group_name(group))
        file = AnswersFile(run.evaluation, samples=group[0].samples)
        found |= {answers[0].prompt for answers in file.items.values()}
    return found
