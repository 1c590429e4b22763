"""Training in several processes, and recomputation."""
