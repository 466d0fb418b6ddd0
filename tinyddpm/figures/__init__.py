"""Pictures of samples, denoising and schedules: PNG, GIF and NPZ files, and charts for the terminal."""
