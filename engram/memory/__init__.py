"""A memory: a table of rows that a frozen model reads at taught answers."""
