"""What an evaluation found out: scores, comparisons, and their metrics.

Owns the list of results and their order. Refuses to own the arithmetic (evaluation/) and how they
are shown (table.py, page.py). Invariant: results are made of the rows of the answers file alone, in
the order of the data, so it does not matter in how many sittings they were answered.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlpost.evaluation.answer import Answer
from rlpost.evaluation.comparison import PairedDifference, compare
from rlpost.evaluation.difficulty import histogram, pass_rate
from rlpost.evaluation.scores import ScoreSheet, score
from rlpost.stages.evaluate.answers_file import AnswersFile, ItemKey
from rlpost.stages.evaluate.job import item_key, prompts_of
from rlpost.stages.evaluate.plan import BASELINE, MODEL, EvaluatePlan


@dataclass(frozen=True, kw_only=True)
class Result:
    """The scores of one model on one data set, or on a part of it."""

    model: str
    dataset: str
    part: str  # empty: all of it
    sheet: ScoreSheet
    difficulty: Mapping[str, int]  # class -> items


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything that an evaluation says."""

    scores: tuple[Result, ...]  # by model, data set and part
    differences: dict[str, PairedDifference]  # data set -> model minus baseline

    def metrics(self) -> dict[str, float]:
        """Return the public names; those of the baseline begin with ``baseline/``."""
        metrics: dict[str, float] = {}
        for each in self.scores:
            prefix = "" if each.model == MODEL else f"{each.model}/"
            if each.part:
                mean = each.sheet.mean
                name = f"val-aux/{each.dataset}/{each.part}/acc/mean@{each.sheet.samples}"
                metrics |= {} if mean is None else {f"{prefix}{name}": mean.mean}
            else:
                found = each.sheet.metrics(each.dataset)
                metrics |= {f"{prefix}{name}": value for name, value in found.items()}
        for dataset, difference in self.differences.items():
            metrics |= {
                f"val-core/{dataset}/difference/mean": difference.difference,
                f"val-core/{dataset}/difference/low": difference.low,
                f"val-core/{dataset}/difference/high": difference.high,
                f"val-core/{dataset}/difference/p_value": difference.p_value,
            }
        return metrics


def order_of(plan: EvaluatePlan) -> list[ItemKey]:
    """Return every item of an evaluation, in the order of the data."""
    return [
        item_key(examinee, source, prompt)
        for examinee in plan.examinees
        for source in plan.sources
        for prompt in prompts_of(examinee, source)
    ]


def results_of(plan: EvaluatePlan, file: AnswersFile) -> Results:
    """Score every answer that is there; items without answers count as not known."""
    cfg, scores = plan.cfg, []
    rewards: dict[tuple[str, str], dict[str, list[float | None]]] = {}
    for examinee in plan.examinees:
        for source in plan.sources:
            keys = [item_key(examinee, source, each) for each in prompts_of(examinee, source)]
            answered = {key: file.items.get(key, ()) for key in keys}
            rewards[examinee.role, source.name] = {
                uid: [each.reward for each in answers] or [None] * cfg.samples
                for (_, _, uid), answers in answered.items()
            }
            items = list(answered.values())
            place = (examinee.role, source.name)
            scores.append(result_of(*place, "", items, samples=cfg.samples, ks=cfg.k))
            parts = sorted({answers[0].part for answers in items if answers and answers[0].part})
            scores += [
                result_of(
                    *place,
                    part,
                    [answers for answers in items if answers and answers[0].part == part],
                    samples=cfg.samples,
                    ks=cfg.k,
                )
                for part in (parts if len(parts) > 1 else ())
            ]
    differences = {}
    for source in plan.sources if len(plan.examinees) > 1 else ():
        before, after = (rewards[role, source.name] for role in (BASELINE, MODEL))
        if (difference := compare(before, after, seed=cfg.seed)) is not None:
            differences[source.name] = difference
    return Results(scores=tuple(scores), differences=differences)


def result_of(
    model: str,
    dataset: str,
    part: str,
    items: Sequence[Sequence[Answer]],
    *,
    samples: int,
    ks: Sequence[int],
) -> Result:
    """Score the answers of one model; ``items`` without answers count as not known."""
    outcomes = [[answer.outcome for answer in answers] for answers in items]
    sheet = score(outcomes, samples=samples, ks=ks)
    rates = [pass_rate([answer.reward for answer in answers]) for answers in items]
    return Result(model=model, dataset=dataset, part=part, sheet=sheet, difficulty=histogram(rates))
