"""How much a step packs, for whoever makes room for it.

Owns the arithmetic. Refuses to own how many tokens a stage trains on (each stage's plan).
"""

from dataclasses import dataclass

# Of a scored token: its id, position, place, reader and item, each an int64; see ``MicroBatch``.
INDEX_BYTES = 40
# weight, advantage and return; log-probs of the sampler, the reference and the proximal policy;
# a critic's value; whether a loss selects the token.
USUAL_COLUMNS = 8


@dataclass(frozen=True, kw_only=True)
class StepSize:
    """What one step packs, at most.

    Example: ``StepSize(tokens=1000).bytes == 72_000``
    """

    tokens: int
    column_bytes: int = 4 * USUAL_COLUMNS  # of all columns, of one token

    @property
    def bytes(self) -> int:
        """Return the size of its micro-batches."""
        return self.tokens * (INDEX_BYTES + self.column_bytes)
