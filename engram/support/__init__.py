"""Knows nothing of models: errors, files, locks, text, JSON, schemas, statistics, this machine, the console."""
