"""`make parity`: MLX and Unsloth on one loss curve."""
