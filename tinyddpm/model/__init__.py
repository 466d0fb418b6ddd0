"""All that a trained model needs: its configuration, its checkpoint, its network as a denoiser, and its samples."""
