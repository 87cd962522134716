"""What teaches best, measured: LoRA, a memory, both, examples in the prompt, and a plain dictionary, side by side."""
