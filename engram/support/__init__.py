"""What knows nothing of models: errors, files, text, schemas, this machine."""
