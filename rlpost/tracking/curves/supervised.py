"""The curves of stages that learn from a data set, by the stage's name.

Owns which metrics are shown, in which order and under which words. Invariant: the names are those
that ``stages/`` and ``training/`` record for a stage whose metrics begin with its own name.
"""

from rlpost.tracking.curves.every_stage import SCORES
from rlpost.tracking.curves.panel import CurveSection, Panel


def learning(stage: str) -> CurveSection:
    """Return what shows whether ``stage`` learns, and whether its updates are sound."""
    return CurveSection(
        title=f"Does {stage} learn?",
        help="The held-out loss is the number a run is for; the loss is what it trains on.",
        panels=(
            Panel(
                title=f"Held-out loss of {stage}",
                unit="nats per token",
                help="Mean loss of held-out data, by source: the number this run is for.",
                pattern=rf"{stage}/heldout_loss(?:/(.+))?",
                wide=True,
            ),
            Panel(
                title=f"Held-out perplexity of {stage}",
                unit="perplexity",
                help="exp of the held-out loss per token, by source.",
                pattern=rf"{stage}/heldout_perplexity(?:/(.+))?",
                log_scale=True,
            ),
            SCORES,
            *update_panels(stage, unit="nats per token"),
        ),
    )


def update_panels(stage: str, *, unit: str) -> tuple[Panel, ...]:
    """Return what shows whether the updates of ``stage`` are sound; ``unit`` is of its loss."""
    return (
        Panel(
            title=f"Training loss of {stage}",
            unit=unit,
            help="Loss of each step's batch, before its update.",
            curves={f"{stage}/loss": "loss"},
        ),
        Panel(
            title=f"Gradient norm of {stage}",
            unit="norm before clipping",
            help="Spikes show unstable updates.",
            curves={f"{stage}/grad_norm": "gradient"},
        ),
        Panel(
            title=f"Learning rate of {stage}",
            unit="learning rate",
            help="The schedule as it was applied.",
            curves={f"{stage}/lr": "learning rate"},
        ),
    )
