"""What generated videos are written as, unless the user says otherwise. Imports nothing, so that the parser can."""

DEFAULT_FORMATS = ("mp4", "gif")  # those that people can look at
DEFAULT_FPS = 8.0  # frames per second
