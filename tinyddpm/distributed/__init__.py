"""Ranks that share a run: processes that a launcher started together, and their sums, gathers and checks."""
