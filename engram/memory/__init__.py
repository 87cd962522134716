"""The memory: rows of numbers for taught answers, each read at its own address and nowhere else."""
