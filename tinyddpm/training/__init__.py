"""Training: configuration, optimiser, trainer, checkpoints, run folders, and samples from what was trained."""
