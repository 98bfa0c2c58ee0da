"""Optimizers written once more from their papers, or taken from their library, on plain tensors.

They share nothing with rlpost but the names of the options, whose values are those of ``SETTINGS``.
Each is ``update(weights, gradients, lr)`` over dictionaries by name.
"""

import numpy as np
import torch
from transformers.optimization import Adafactor

SETTINGS = {"beta1": 0.8, "beta2": 0.95, "eps": 1e-6, "weight_decay": 0.1}
BETA1, BETA2, EPS, DECAY = SETTINGS.values()
HEAD_DIM = 32  # of the tiny Llama
RANK, GAP, SCALE = 8, 4, 0.5


def is_matrix(name: str, weight: torch.Tensor) -> bool:
    """Whether it is in a layer: not an embedding, not a head."""
    return weight.ndim == 2 and ".layers." in name


class PlainAdam:
    """AdamW."""

    def __init__(self):
        self.state = {}

    def direction(self, key, gradient: np.ndarray, squares=None) -> np.ndarray:
        squares = gradient**2 if squares is None else squares
        m, v, t = self.state.get(key, (np.zeros_like(gradient), np.zeros_like(squares), 0))
        m, v, t = BETA1 * m + (1 - BETA1) * gradient, BETA2 * v + (1 - BETA2) * squares, t + 1
        self.state[key] = m, v, t
        return (m / (1 - BETA1**t)) / (np.sqrt(v / (1 - BETA2**t)) + EPS)

    def of(self, name: str, gradient: np.ndarray) -> np.ndarray:
        return self.direction(name, gradient)

    def update(self, weights, gradients, lr: float) -> None:
        for name, weight in weights.items():
            direction = self.of(name, gradients[name].double().numpy())
            weight.mul_(1 - lr * DECAY).sub_(lr * torch.from_numpy(direction).float())


class PlainAdamMini(PlainAdam):
    """The second moment is a mean: of a head of queries or keys, of a row, of a vector."""

    def of(self, name: str, gradient: np.ndarray) -> np.ndarray:
        squares = gradient**2
        if gradient.ndim == 1:
            squares = np.full_like(squares, squares.mean())
        elif name.split(".")[-2] in ("q_proj", "k_proj"):
            heads = squares.reshape(-1, HEAD_DIM * squares.shape[1]).mean(1)
            squares = np.repeat(heads, HEAD_DIM)[:, None] * np.ones_like(squares)
        else:
            squares = squares.mean(1, keepdims=True) * np.ones_like(squares)
        return self.direction(name, gradient, squares)


class PlainGaLore(PlainAdam):
    """Adam in the leading directions of a gradient, which are taken anew every ``GAP`` updates."""

    keeps_signs = True

    def __init__(self):
        super().__init__()
        self.bases, self.updates = {}, {}

    def of(self, name: str, gradient: np.ndarray) -> np.ndarray:
        if not is_matrix(name, gradient) or min(gradient.shape) <= RANK:
            return self.direction(name, gradient)
        done = self.updates.get(name, 0)
        self.updates[name] = done + 1
        if done % GAP == 0:
            left, _, right = np.linalg.svd(gradient, full_matrices=False)
            tall = gradient.shape[0] >= gradient.shape[1]
            basis = right[:RANK].T if tall else left[:, :RANK]
            if self.keeps_signs and name in self.bases:
                for k in range(RANK):
                    if basis[:, k] @ self.bases[name][:, k] < 0:
                        basis[:, k] *= -1
            self.bases[name] = basis
        basis = self.bases[name]
        if gradient.shape[0] >= gradient.shape[1]:
            return SCALE * self.direction(name, gradient @ basis) @ basis.T
        return SCALE * basis @ self.direction(name, basis.T @ gradient)


class OfLibrary:
    """Optimizers of torch and transformers."""

    def __init__(self, make):
        self.make, self.optimizers = make, None

    def update(self, weights, gradients, lr: float) -> None:
        if self.optimizers is None:
            self.optimizers = self.make(weights)
        for name, weight in weights.items():
            weight.grad = gradients[name].clone()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()


def _muon(weights):
    matrices = [w for name, w in weights.items() if is_matrix(name, w)]
    rest = [w for name, w in weights.items() if not is_matrix(name, w)]
    adam = torch.optim.AdamW(rest, betas=(BETA1, BETA2), eps=EPS, weight_decay=DECAY)
    muon = torch.optim.Muon(matrices, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw")
    return [muon, adam]


def _adafactor(weights):
    options = {"scale_parameter": False, "relative_step": False, "lr": 0.0}
    return [Adafactor(list(weights.values()), weight_decay=DECAY, **options)]


def plain(kind: str):
    """Return the reference of a kind; 8-bit moments are compared with those of 32."""
    return {
        "adamw": PlainAdam,
        "adamw_8bit": PlainAdam,
        "adam_mini": PlainAdamMini,
        "galore": PlainGaLore,
        "muon": lambda: OfLibrary(_muon),
        "adafactor": lambda: OfLibrary(_adafactor),
    }[kind]()
