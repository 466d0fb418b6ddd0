"""The book: an annotated edition of the source, docstrings and equations beside the code, generated from the source."""
