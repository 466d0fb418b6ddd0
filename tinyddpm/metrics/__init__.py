"""What is measured of samples: arrays of features in, numbers out."""
