"""The training run: schedule, loop, hooks, history, checkpoints, folder, workers."""
