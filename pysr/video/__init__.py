"""Video: a clip in, the whole clip out, restored, in sync, resumable."""

from pysr.video.clip import Clip, VideoError
from pysr.video.job import Progress, Report, upscale
from pysr.video.reader import probe

__all__ = ["Clip", "Progress", "Report", "VideoError", "probe", "upscale"]
