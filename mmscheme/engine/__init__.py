"""What runs around the model: checkpoints, hooks, checks before a run."""
