"""The taught model in other programs' formats, checked there."""
