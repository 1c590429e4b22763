"""Before and around runs: dry runs, learning rate, batch size, search, folds."""
