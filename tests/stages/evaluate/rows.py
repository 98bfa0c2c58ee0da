"""Rows of an answers file, made by hand."""

from rlpost.evaluation.answer import Answer


def answer(uid="0:0", sample=0, reward=1.0, *, model="model", dataset="d", part="", error=None):
    return Answer(
        model=model,
        dataset=dataset,
        part=part,
        uid=uid,
        sample=sample,
        seed=7,
        prompt="What is 2 + 2?",
        response="<b>4</b> \u2028 \U0001f600",
        answer="4",
        reward=reward,
        error=error,
        verdicts=({"verifier": "math", "reward": reward, "error": error},),
        finish_reason="stop",
        num_tokens=3,
    )


def group(uid, *rewards, **settings):
    return [answer(uid, sample, reward, **settings) for sample, reward in enumerate(rewards)]
