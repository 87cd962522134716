"""Everything two backends must agree on: settings, token ids and loss masks, batches, learning rates, checkpoints."""
