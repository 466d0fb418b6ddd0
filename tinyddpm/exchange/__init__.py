"""Import from and export to other projects' formats, as data without code."""
