"""Metrics of samples: features map samples to rows of numbers, metrics map sets of rows to named numbers."""
