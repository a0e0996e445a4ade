"""Video: a clip in, the whole clip out, restored, in sync, resumable."""
