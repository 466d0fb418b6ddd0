"""Ranks that share a run: processes that a launcher started together, which sum, gather and agree."""
