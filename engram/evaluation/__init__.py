"""Answers become figures; figures are compared, honestly."""
