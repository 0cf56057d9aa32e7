"""Video files, read and written."""
