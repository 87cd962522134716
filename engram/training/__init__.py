"""The stage that teaches."""
