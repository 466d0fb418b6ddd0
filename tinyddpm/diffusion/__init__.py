"""Diffusion: schedules, the Gaussian process, parametrisations, losses, laws of t, the bound. No networks."""
