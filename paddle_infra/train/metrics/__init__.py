"""Streaming metrics: they keep counts and exact sums, never outputs."""
