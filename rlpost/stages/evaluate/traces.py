"""Answers of an evaluation that are kept as a data set, such as a teacher's for ``rlpost sft``.

Owns which answers are traces. Refuses to own the rule (algorithms/selection.py) and the format
(sampling/kept_dataset.py). Invariants: an answer that was cut off at the limit of tokens is no
trace, because it has no end to learn, and an empty one is none; the file is made of the rows of the
answers file alone, so it does not matter in how many sittings they were answered.
"""

from pathlib import Path

from rlpost.algorithms.selection import select
from rlpost.evaluation.answer import Answer
from rlpost.stages.evaluate.answers_file import AnswersFile
from rlpost.stages.evaluate.job import item_key, prompts_of
from rlpost.stages.evaluate.plan import EvaluatePlan
from rlpost.stages.sampling.kept_dataset import kept_record, says_something, write_dataset
from rlpost.types import Prompt

NAME = "kept.jsonl"


def write_traces(root: Path, plan: EvaluatePlan, file: AnswersFile) -> str:
    """Write what ``selection`` keeps below ``root``, and return what to tell the person."""
    cfg, records = plan.cfg, []
    for examinee in plan.examinees:
        for source in plan.sources:
            for prompt in prompts_of(examinee, source):
                answers = file.items.get(item_key(examinee, source, prompt), ())
                whole = [each for each in answers if _is_whole(each)]
                kept = select(
                    [each.reward for each in whole],
                    response_ids=[tuple(each.response.encode()) for each in whole],
                    config=cfg.selection,
                )
                records += [_record(prompt, whole[i], model=cfg.answered_by) for i in kept]
    write_dataset(root / NAME, records)
    return f"{len(records)} answers are kept as a data set: data.train={root / NAME}"


def _is_whole(answer: Answer) -> bool:
    return answer.finish_reason != "length" and says_something(answer.response)


def _record(prompt: Prompt, answer: Answer, *, model: str) -> dict[str, object]:
    return kept_record(
        prompt,
        answer.response,
        sample=answer.sample,
        seed=answer.seed,
        model=model,
        version=0,
        reward=answer.reward,
        verdicts={each["verifier"]: each["reward"] for each in answer.verdicts},
    )
