"""Taking the model away: adapter, whole model, GGUF or ollama, each with a card and with what was checked."""
