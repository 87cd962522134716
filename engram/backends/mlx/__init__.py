"""mlx-lm on Apple silicon, and on MLX's CPU build."""
