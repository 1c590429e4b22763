"""What wraps the training step, and losses."""
