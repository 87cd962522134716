"""Unsloth and TRL on an NVIDIA GPU, and the same code without one."""
