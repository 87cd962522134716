"""The commands that bring patterns in."""

from __future__ import annotations

from collections import Counter

import click


@click.command()
def packs() -> None:
    """List the bundled packs of patterns; each is taught where it is named, as PATTERNS=http,ports."""
    from engram import pattern_files
    from engram.patterns import load_patterns

    for name, path in pattern_files.packs().items():
        categories = Counter(pattern.category for pattern in load_patterns([path]))
        listed = ", ".join(f"{category} {n}" for category, n in categories.items())
        click.echo(f"{name:10} {categories.total():4} patterns: {listed}")


COMMANDS = (packs,)
