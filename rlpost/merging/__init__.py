"""Merging: from weights that are files to the files of one model, without training."""
