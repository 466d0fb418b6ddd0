"""What is told of runs: their curves in the terminal and as pictures, and one HTML page with all that is known."""
