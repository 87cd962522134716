"""A name becomes a folder with weights, a tokenizer and a chat template; adapters on disk, and between layouts."""
