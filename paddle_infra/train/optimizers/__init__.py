"""Optimizers, schedules, clipping, freezing."""
