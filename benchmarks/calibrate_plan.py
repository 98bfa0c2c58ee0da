"""Fit the constants of ``rlpost plan``'s times to figures that are known, judge them by others.

    .venv/bin/python benchmarks/calibrate_plan.py
    .venv/bin/python benchmarks/calibrate_plan.py --fit
    .venv/bin/python benchmarks/calibrate_plan.py --sealed

Prints every figure with what ``rlpost/roofline`` says of it, and the errors of each set; memory by
``rlpost plan``'s arithmetic. ``--fit`` determines the constants anew first, from half of
``tests/published_figures.yaml`` and all of ``tests/opened_figures.yaml``, and prints them.
``--sealed`` shows ``tests/sealed_figures.yaml``, too: whoever has seen it can choose terms and
constants no more. A figure's error is that of its logarithm, large ones count less (soft L1), and
each constant is held near a first guess as strongly as by a figure that knows it within a factor
of e^5.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from published_figures import OPENED, SEALED, figures_of, halves, predicted, shapes  # noqa: E402

from rlpost.roofline.efficiency import EFFICIENCY, FITTED, Efficiency  # noqa: E402

GUESS = {
    "products": 0.75, "products_full_clock": 0.9, "attention": 0.9, "early_attention": 0.5,
    "hopper_attention": 1.5, "expert_products": 0.8, "exposed": 0.3, "traffic": 2.0,
    "memory": 0.8, "lone_memory": 0.6, "cache_memory": 0.7, "decode_layer_s": 15e-6,
    "far_hop_s": 60e-6, "host_s": 3e-3, "host_token_s": 100e-6, "expert_memory": 0.6,
    "expert_waits": 0.5, "links": 0.6, "step_s": 25.0, "gathered": 70e9, "broadcast": 20e9,
}  # fmt: skip
MOST = {
    "memory": 0.92, "cache_memory": 0.92, "links": 0.9, "exposed": 1.0, "products": 0.95,
    "products_full_clock": 0.95, "expert_products": 1.0, "expert_memory": 1.0,
    "expert_waits": 1.0, "attention": 1.6,
}  # fmt: skip
HELD, SOFT = 0.2, 0.2  # strength of the guesses; error from which on figures count less

Residuals = Callable[[np.ndarray], np.ndarray]


def minimum(residuals: Residuals, start: np.ndarray) -> np.ndarray:
    """Return where the sum of soft residuals is least, by damped Gauss-Newton steps."""

    def cost(r: np.ndarray) -> float:
        return float(np.sum(np.sqrt(1 + (r / SOFT) ** 2) - 1))

    x, damping = start.copy(), 1e-2
    r = residuals(x)
    for _ in range(40):
        steps = 1e-3 * np.eye(len(x))
        jacobian = np.stack([(residuals(x + step) - r) / 1e-3 for step in steps], axis=1)
        weighted = jacobian.T / np.sqrt(1 + (r / SOFT) ** 2)
        matrix, gradient = weighted @ jacobian, weighted @ r
        for _ in range(8):
            damped = matrix + damping * np.diag(np.diag(matrix) + 1e-9)
            moved = x + np.clip(-np.linalg.solve(damped, gradient), -0.5, 0.5)
            found = residuals(moved)
            if cost(found) < cost(r):
                gain, damping = cost(r) - cost(found), damping / 3
                x, r = moved, found
                break
            damping *= 4
        else:
            return x
        if gain < 1e-6:
            return x
    return x


def fitted() -> Efficiency:
    """Return the constants that the known figures determine."""
    figures, models = halves()[0] + figures_of(OPENED), shapes()
    start = np.log([GUESS[name] for name in FITTED])

    def constants(x: np.ndarray) -> Efficiency:
        values = {n: min(v, MOST.get(n, v)) for n, v in zip(FITTED, np.exp(x), strict=True)}
        return replace(EFFICIENCY, **values)

    def residuals(x: np.ndarray) -> np.ndarray:
        k = constants(x)
        errors = [np.log(predicted(each, models, k) / each["number"]) for each in figures]
        return np.array([*errors, *(HELD * (x - start))])

    return constants(minimum(residuals, start))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fit", action="store_true", help="determine the constants first")
    parser.add_argument("--sealed", action="store_true", help="show the sealed figures, too")
    args = parser.parse_args()
    k = fitted() if args.fit else EFFICIENCY
    models = shapes()
    sets = dict(zip(("fitted to", "judged by"), halves(), strict=True))
    sets |= {"fitted to, opened:": figures_of(OPENED)}
    sets |= {"known, memory:": figures_of(OPENED, memory=True)}
    if args.sealed:
        sets |= {"sealed, times:": figures_of(SEALED)}
        sets |= {"sealed, memory:": figures_of(SEALED, memory=True)}
    for name, figures in sets.items():
        errors = []
        for each in figures:
            found = predicted(each, models, k)
            errors.append(found / each["number"] - 1)
            words = f"{each['source']}: {each['what']}"
            print(f"{words:62} {each['number']:>10,} {found:11,.5g} {errors[-1]:+6.0%}")
        size = np.abs(errors)
        print(f"{name} {len(figures)}: median {np.median(size):.1%}, worst {size.max():.1%}\n")
    for name in FITTED:
        print(f"{name}: {getattr(k, name):.3g}")


if __name__ == "__main__":
    main()
