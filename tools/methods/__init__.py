"""`make compare-methods`: LoRA, a memory, both, examples in the prompt and a dictionary on the same questions."""
