"""Trained models: configuration, checkpoint, the network as a denoiser, and drawing samples."""
