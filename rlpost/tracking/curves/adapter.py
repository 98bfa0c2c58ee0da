"""The curves of an adapter that is measured while it is trained (``adapter.diagnose_every``).

Owns which metrics are shown, in which order and under which words. Invariant: the names are those
of training/adapters/gradient_energy.py and of training/adapters/allocation.py.
"""

from rlpost.tracking.curves.panel import CurveSection, Panel

CAPACITY = CurveSection(
    title="Is the adapter large enough?",
    help="Where the gradient of a few rows lies, and how much of its rank the adapter uses.",
    panels=(
        Panel(
            title="Gradient that the adapter cannot follow",
            unit="share of energy",
            help="Outside the adapter's directions: of weights that have it, all, and what two "
            "halves of the rows have in common; of linear layers without it; of all other weights.",
            curves={
                "adapter/gradient_outside": "outside",
                "adapter/gradient_outside_agreed": "outside, in common",
                "adapter/gradient_unadapted": "layers without it",
                "adapter/gradient_other_weights": "embeddings, head and norms",
            },
            wide=True,
        ),
        Panel(
            title="Gradient outside by layer",
            unit="share of energy",
            help="What the adapter cannot follow, by the name of the layer that has it.",
            pattern=r"adapter/gradient_outside/(.+)",
        ),
        Panel(
            title="Agreement of the rows",
            unit="cosine",
            help="Between the gradients of two halves of the rows; near 0 the gradient is noise.",
            curves={"adapter/gradient_agreement": "agreement"},
        ),
        Panel(
            title="Effective rank of the update",
            unit="rank",
            help="Of the product of the adapter's matrices, by the name of the layer.",
            pattern=r"adapter/update_rank/(.+)",
        ),
        Panel(
            title="Spectrum of the update",
            unit="share",
            help="Effective rank over the rank that it could have, and the energy of the largest "
            "singular value; means over layers.",
            curves={
                "adapter/update_rank_used": "rank used",
                "adapter/update_top_share": "largest value",
            },
            range01=True,
        ),
        Panel(
            title="Stable rank of the update",
            unit="rank",
            help="Energy over that of the largest singular value, and the effective rank; means.",
            curves={
                "adapter/update_stable_rank": "stable rank",
                "adapter/update_rank": "effective rank",
            },
        ),
        Panel(
            title="Ranks of the adapter",
            unit="rank",
            help="Where ranks move between layers: the smallest and the largest one.",
            curves={"adapter/smallest_rank": "smallest", "adapter/largest_rank": "largest"},
        ),
    ),
)
