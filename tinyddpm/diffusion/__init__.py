"""Diffusion: noise schedules and what they do, the Gaussian process, its parametrisations and losses. No networks."""
