"""What is written from result documents: the reference runs and the documentation's numbers."""
