"""Items of a difficulty, kept as a data set of prompts, such as for ``rlpost rl``.

Owns the band and the file's rows. Refuses to own the share of right responses
(evaluation/difficulty.py). Invariant: the file is made of the rows of the answers file alone, so
it does not matter in how many sittings they were answered.
"""

from pathlib import Path

from rlpost.evaluation.difficulty import pass_rate
from rlpost.stages.evaluate.answers_file import AnswersFile
from rlpost.stages.evaluate.job import item_key, prompts_of
from rlpost.stages.evaluate.plan import EvaluatePlan
from rlpost.stages.sampling.kept_dataset import write_dataset
from rlpost.types import Prompt

NAME = "items.jsonl"


def write_items(root: Path, plan: EvaluatePlan, file: AnswersFile) -> str:
    """Write the items within the band below ``root``, and return what to tell the person."""
    records, total = [], 0
    for examinee in plan.examinees:
        for source in plan.sources:
            for prompt in prompts_of(examinee, source):
                answers = file.items.get(item_key(examinee, source, prompt), ())
                rate = pass_rate([each.reward for each in answers])
                total += 1
                if rate is not None and plan.cfg.difficulty.holds(rate):
                    records.append(_record(prompt, rate))
    write_dataset(root / NAME, records)
    return f"{len(records)} of {total} items are kept as a data set: data.train={root / NAME}"


def _record(prompt: Prompt, rate: float) -> dict[str, object]:
    tools = {"tools": list(prompt.tools)} if prompt.tools else {}
    asked = prompt.text if prompt.messages is None else list(prompt.messages)
    return {**prompt.columns, **tools, "prompt": asked, "pass_rate": rate}
