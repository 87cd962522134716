"""The demo, your own questions, the report, recordings, and the checklist before a video."""
