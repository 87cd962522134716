"""engram: teach a small chat model the patterns that never change, and show honestly what it learned."""

__version__ = "0.1.0"
