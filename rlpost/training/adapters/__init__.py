"""Adapters: small trainable changes to a model whose own weights stay as they are."""
