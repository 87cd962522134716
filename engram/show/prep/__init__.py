"""The checklist before a video is recorded."""
