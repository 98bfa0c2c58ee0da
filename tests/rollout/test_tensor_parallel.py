"""What vLLM can divide among the workers of one engine."""

import pytest

from rlpost.errors import UserError
from rlpost.models.shape import Experts, ModelShape
from rlpost.rollout.tensor_parallel import require_divisible


def shape(*, heads=16, kv_heads=4, feed_forward=4096, vocabulary=32000, experts=None) -> ModelShape:
    return ModelShape(
        parameters=1,
        layers=1,
        width=1024,
        feed_forward=feed_forward,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=64,
        vocabulary=vocabulary,
        experts=experts,
    )


@pytest.mark.parametrize("parts", [1, 2, 4, 8, 16])
def test_key_value_heads_are_divided_or_copied(parts):
    require_divisible(parts, shape())


# Two of them have an even number of inner values together.
EXPERTS = Experts(number=8, per_token=2, feed_forward=63, layers=1)

TWELVE = {"heads": 12, "kv_heads": 4, "feed_forward": 3072, "vocabulary": 49152}


@pytest.mark.parametrize(
    ("of", "parts", "words"),
    [
        ({"heads": 9, "kv_heads": 3}, 4, "the model's 9 attention heads"),  # SmolLM2-135M's
        (TWELVE, 3, "4 key-value heads into equal parts, nor is it a multiple of them"),
        (TWELVE, 6, "4 key-value heads into equal parts, nor is it a multiple of them"),
        (TWELVE | {"feed_forward": 3073}, 4, "3073 inner values of a feed-forward layer"),
        ({"feed_forward": 126, "experts": EXPERTS}, 2, "63 inner values of an expert"),
        (TWELVE | {"vocabulary": 49153}, 12, "49216 rows of the embedding, padded"),
    ],
)
def test_what_cannot_be_divided_is_refused_with_the_sizes_that_can(of, parts, words):
    with pytest.raises(UserError) as refusal:
        require_divisible(parts, shape(**of))
    said = str(refusal.value)
    assert said.startswith(f"generator.tensor_parallel_size={parts} ") and words in said
    ways_out = said.rpartition("; use ")[2]
    for each in ways_out.replace(",", "").replace(" or ", " ").split():
        require_divisible(int(each), shape(**of))
