"""A task of inspect-ai on the rows of a file: `inspect eval` runs it against any endpoint."""

from inspect_ai import Task, task
from inspect_ai.dataset import FieldSpec, json_dataset
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import match
from inspect_ai.solver import generate


@task
def sums():
    return Task(
        dataset=json_dataset("sums.jsonl", FieldSpec(input="prompt", target="answer")),
        solver=generate(),
        scorer=match(location="end", numeric=True),
        config=GenerateConfig(temperature=0, max_tokens=64),
    )
