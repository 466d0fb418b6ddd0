"""Training: the step on host and device, the trainer, and the run with its folder, checkpoints and pictures."""
