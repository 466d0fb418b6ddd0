"""Other projects' formats, in and out: data, never code."""
