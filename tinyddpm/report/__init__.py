"""Reports of runs: curves in the terminal and as pictures, and an HTML page; and the book about the source."""
