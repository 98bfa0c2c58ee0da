"""One point for the right number, up to a quarter for brevity: as verl takes it.

rlpost rl verifier=function verifier.path=docs/examples/verl_reward.py:compute_score
"""

import re


def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    numbers = re.findall(r"-?\d+", solution_str)
    right = float(numbers[-1:] == [str(ground_truth)])
    return {"score": right + max(0, 64 - len(solution_str)) / 256, "right": right}
