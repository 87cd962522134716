"""The table of rows that a frozen model reads."""
