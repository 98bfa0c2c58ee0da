"""How long an evaluation takes: the answers of its models, one model after the other.

Owns the requests. Refuses to own the arithmetic (roofline/) and judging, which is not counted.
"""

from rlpost.models.shape import model_shape
from rlpost.roofline.generation import Requests, generation_s
from rlpost.roofline.lengths import Lengths
from rlpost.roofline.steps import StepTime
from rlpost.stages.evaluate.plan import EvaluatePlan, Examinee
from rlpost.stages.step_time import PlannedOn, engines_of, mean_length

_SEEN_PROMPTS = 64  # whose length is taken for that of all, of each source


def timing(plan: EvaluatePlan, on: PlannedOn, *, mean_response: float | None) -> StepTime | None:
    """Return the seconds of all answers; None: somebody else's server gives them.

    Args:
        plan: a checked evaluation.
        on: where its engines would be.
        mean_response: tokens of a response on average; None: all that are allowed.

    Raises:
        DoesNotFit: an engine cannot hold the weights and one sequence.
    """
    local = [each for each in plan.examinees if each.generator is not None]
    if not local:
        return None
    answers = [_answers_s(plan, each, on, mean_response=mean_response) for each in local]
    return StepTime(generation_s=sum(answers), of="all answers")


def _answers_s(
    plan: EvaluatePlan, examinee: Examinee, on: PlannedOn, *, mean_response: float | None
) -> float:
    assert examinee.generator is not None, "its server answers"
    device, longest = on.engine(examinee.generator), plan.cfg.max_tokens
    rows, tokens = 0, 0.0
    for dataset in examinee.prompts.values():
        seen = range(min(len(dataset), _SEEN_PROMPTS))
        each = sum(len(dataset.prompt(0, row).token_ids) for row in seen) / len(seen)
        rows, tokens = rows + len(dataset), tokens + each * len(dataset)
    requests = Requests(
        prompts=rows,
        samples=plan.cfg.samples,
        prompt_tokens=tokens / rows,
        lengths=Lengths(mean=mean_length(longest, mean_response), longest=longest),
    )
    shape = model_shape(examinee.path)
    engines = engines_of(examinee.generator, device, shape)
    return generation_s(shape, device, engines, requests, k=on.efficiency)
