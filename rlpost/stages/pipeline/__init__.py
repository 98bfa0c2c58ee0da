"""`rlpost pipeline`: a chain of stages with gates, from one file."""
