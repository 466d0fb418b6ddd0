"""Figures of samples, processes and training: PNG, SVG, GIF and NPZ files, and charts for the terminal."""
