"""Videos as files: read, written, and laid out side by side. Frames are uint8 (frames, height, width, 3), RGB."""
