"""YAML, CSV and JSON Lines in; checked patterns out."""
