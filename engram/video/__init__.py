"""Recordings: a show on a virtual clock → an asciicast → its screens → pictures → MP4, GIF and PNG."""
