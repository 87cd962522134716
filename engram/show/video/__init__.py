"""Recordings: a show on a virtual clock, its cast, screens, pictures, MP4 and GIF."""
