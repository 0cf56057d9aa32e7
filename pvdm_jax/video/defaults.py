"""How generated videos are written by default. Imports nothing, so that the command's parser can import it."""

FORMATS = ("mp4", "gif", "png", "npz")  # png: a folder of pictures
DEFAULT_FORMATS = ("mp4", "gif")  # those that people can look at
DEFAULT_FPS = 8.0  # frames per second
MAX_VIDEOS = 10**6  # most videos of one command
