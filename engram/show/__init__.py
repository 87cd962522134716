"""What people look at: the demo, questions, the report, recordings, the checklist before a video."""
