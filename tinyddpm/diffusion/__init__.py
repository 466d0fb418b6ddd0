"""Diffusion: schedules and what they do, the Gaussian process, parametrisations, losses, laws of t. No networks."""
