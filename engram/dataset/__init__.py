"""Patterns become rows: phrasings, the split, the proof that nothing leaks, the manifest."""
