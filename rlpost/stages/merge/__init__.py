"""``rlpost merge``: one model out of others, without training and without a Ray session."""
