"""One point for the right number, up to a quarter for brevity: as TRL takes it.

rlpost rl verifier=function verifier.path=docs/examples/trl_reward.py:right_and_short
"""

import re


def right_and_short(prompts, completions, answer, log_extra=None, **columns):
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    numbers = [re.findall(r"-?\d+", text) for text in texts]
    right = [float(found[-1:] == [str(a)]) for found, a in zip(numbers, answer, strict=True)]
    if log_extra is not None:
        log_extra("right", right)
    return [r + max(0, 64 - len(text)) / 256 for r, text in zip(right, texts, strict=True)]
