"""Measures every clip of a set once, in batches; results are stored, so that a killed evaluation can be resumed.

Results are arrays with one row per clip. They are stored under a hash of everything they depend on: the facts of the
clips and of the measure. A later evaluation thus reuses the features of the real videos, and a killed one resumes.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import pathlib
import time
import zipfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from pvdm_jax.evaluation.clip_sets import ClipSet, clip_pixels
from pvdm_jax.storage.files import write_json

READ_PIXELS = 2**25  # most pixels in a batch of clips read from files: two batches are in memory at a time
Rows = dict[str, np.ndarray]  # results by name, one row per clip
Measure = Callable[[np.ndarray], Rows]


@dataclasses.dataclass(frozen=True)
class ClipMeasurements:
    """The results for a set of clips, and what they took."""

    rows: Rows
    seconds: float
    measuring_seconds: float  # of `seconds`, how long the measure took
    measured: int  # clips that were measured now
    cached: int  # clips whose results were already stored


def measure_clips(
    clips: ClipSet,
    measure: Measure,
    facts: dict[str, Any],
    *,
    cache: pathlib.Path,
    batch_size: int,
    name: str = "clips",
    read_ahead: bool = True,
) -> ClipMeasurements:
    """`measure(batch)` over all clips, `batch_size` at a time: a dict of arrays with one row per clip.

    facts: everything the results depend on besides the clips (JSON). cache: the folder of all stored results. name:
    shown by the progress bar. read_ahead: reads the next batch while this one is measured, with fewer clips at a time
    if they are large (READ_PIXELS); False if reading and measuring use the same device. In a multi-host run, every
    process measures the same batches and stores its own results.
    """
    if read_ahead:
        batch_size = max(1, min(batch_size, READ_PIXELS // clip_pixels(clips)))
    # The number of clips is not part of the key: clip i does not depend on it, so a larger set continues a smaller one.
    key_facts = {name: value for name, value in clips.facts.items() if name != "clips"}
    key = hashlib.sha256(json.dumps([key_facts, facts], sort_keys=True).encode()).hexdigest()[:32]
    folder = cache / key / f"process_{jax.process_index()}"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder.parent / "facts.json", {"clips": key_facts, "measure": facts})

    started, measuring_seconds = time.perf_counter(), 0.0
    parts = _read_stored(folder, len(clips))
    done = _count(parts)
    cached = min(done, len(clips))
    starts = list(range(done, len(clips), batch_size))

    def read(start: int) -> np.ndarray:
        return clips.batch(start, min(start + batch_size, len(clips)))

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        next_batch = pool.submit(read, starts[0]) if starts and read_ahead else None
        for number, start in enumerate(tqdm(starts, desc=name, unit="batch", disable=not starts)):
            batch = next_batch.result() if next_batch is not None else read(start)
            if read_ahead and number + 1 < len(starts):
                next_batch = pool.submit(read, starts[number + 1])
            clock = time.perf_counter()
            rows = measure(batch)
            measuring_seconds += time.perf_counter() - clock
            _store(folder, start, start + len(batch), rows)
            parts.append(rows)

    rows = {name: np.concatenate([part[name] for part in parts])[: len(clips)] for name in parts[0]}
    return ClipMeasurements(
        rows=rows,
        seconds=time.perf_counter() - started,
        measuring_seconds=measuring_seconds,
        measured=len(clips) - cached,
        cached=cached,
    )


def _read_stored(folder: pathlib.Path, count: int) -> list[Rows]:
    """The stored parts that cover the first `count` clips, up to the first gap."""
    parts: list[Rows] = []
    files = {int(path.stem.split("_")[0]): path for path in folder.glob("*.npz") if path.stem[0].isdigit()}
    while _count(parts) < count and _count(parts) in files:
        try:
            with np.load(files[_count(parts)], allow_pickle=False) as arrays:
                part = {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            break
        parts.append(part)
    # All processes resume at the same clip.
    agreed = int(np.min(multihost_utils.process_allgather(np.asarray(_count(parts)))))
    while _count(parts) > agreed:
        parts.pop()
    return parts


def _count(parts: list[Rows]) -> int:
    """How many clips the parts cover."""
    return sum(len(next(iter(part.values()))) for part in parts)


def _store(folder: pathlib.Path, start: int, stop: int, rows: Rows) -> None:
    for name, array in rows.items():
        if len(array) != stop - start:
            raise ValueError(f"the measure returned {len(array)} rows of {name} for {stop - start} clips")
    unfinished = folder / f".{start:08d}.npz"
    np.savez(unfinished, **rows)
    unfinished.replace(folder / f"{start:08d}_{stop:08d}.npz")
