"""Checkpoints: what is saved, how it is written, what is kept."""
