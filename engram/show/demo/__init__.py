"""The before/after show, drawn on a terminal or printed as text."""
