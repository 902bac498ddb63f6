"""Jobs: the store, the runner, progress, limits."""
