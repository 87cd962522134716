"""The checklist before a video is recorded: each line looked at by the machine where a machine can, else asked."""
