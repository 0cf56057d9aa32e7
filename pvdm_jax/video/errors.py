"""The error that reading and writing videos raise."""


class VideoError(ValueError):
    """A video that can't be read or written; the message names the file and the reason."""
