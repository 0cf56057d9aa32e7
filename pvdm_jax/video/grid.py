"""Several videos side by side in one, and small videos enlarged for viewing. Only array operations."""

import math

import numpy as np

MIN_SIDE = 128  # pixels: shorter sides are enlarged for looking at


def video_grid(videos: np.ndarray, columns: int | None = None, padding: int = 2) -> np.ndarray:
    """Lays out videos side by side, row by row.

    Args:
        videos: uint8 (n, t, h, w, 3).
        columns: Videos in a row; by default the grid has about as many rows as columns.
        padding: White pixels between neighbours.

    Returns:
        uint8 (t, H, W, 3).
    """
    n, frames, height, width, channels = videos.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = -(-n // columns)
    cell_height, cell_width = height + padding, width + padding
    grid = np.full((frames, rows * cell_height - padding, columns * cell_width - padding, channels), 255, np.uint8)
    for i, video in enumerate(videos):
        top, left = i // columns * cell_height, i % columns * cell_width
        grid[:, top : top + height, left : left + width] = video
    return grid


def upscale(frames: np.ndarray, factor: int) -> np.ndarray:
    """Makes every pixel a crisp block: (..., h, w, c) to (..., factor * h, factor * w, c)."""
    return frames.repeat(factor, axis=-3).repeat(factor, axis=-2)


def enlarge(frames: np.ndarray) -> np.ndarray:
    """Upscales (..., h, w, c) by the smallest factor that brings the shorter side to at least MIN_SIDE pixels."""
    return upscale(frames, math.ceil(MIN_SIDE / min(frames.shape[-3:-1])))
