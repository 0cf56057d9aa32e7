"""What generated videos are written as, unless the user says otherwise. Imports nothing, so that the parser can."""

FORMATS = ("mp4", "gif", "png", "npz")  # png: a folder of pictures
DEFAULT_FORMATS = ("mp4", "gif")  # those that people can look at
DEFAULT_FPS = 8.0  # frames per second
MAX_VIDEOS = 10**6  # of one command
