"""One pass over a set of clips: every batch is measured once, results are kept, and a killed pass goes on.

Results are arrays with one row for each clip. They are stored by what they are of: a hash of the facts of the clips
and of the measure. So a second evaluation finds the real side's features, and one that was killed its own.
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

from pvdm_jax.evaluation.sets import ClipSet

Measure = Callable[[np.ndarray], dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class PassResult:
    """Rows by name, and where the time went: in all, waiting for the measure, and clips that were new."""

    rows: dict[str, np.ndarray]
    seconds: float
    measuring_seconds: float
    measured: int
    found: int  # clips whose results were already there


def run_pass(
    clips: ClipSet,
    measure: Measure,
    facts: dict[str, Any],
    cache: pathlib.Path,
    batch_size: int,
    name: str = "clips",
    ahead: bool = True,
) -> PassResult:
    """`measure(batch)` over all clips, `batch_size` at a time: a dict of arrays with a row for each clip.

    facts: what, besides the clips, the results depend on (JSON). cache: the folder of all stored results. ahead: the
    next batch is read while this one is measured (False where reading and measuring use the same device). Every
    process of a multi-host run measures the same batches and keeps its own files.
    """
    # Without the number of clips: where clip i is the same for any number, a larger pass goes on from a smaller one.
    which = {name: value for name, value in clips.facts.items() if name != "clips"}
    key = hashlib.sha256(json.dumps([which, facts], sort_keys=True).encode()).hexdigest()[:32]
    folder = cache / key / f"process_{jax.process_index()}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder.parent / "facts.json").write_text(json.dumps({"clips": which, "measure": facts}, indent=2) + "\n")
    began, measuring, parts = time.perf_counter(), 0.0, []
    done = _stored(folder, len(clips), parts)
    found = min(done, len(clips))
    starts = list(range(done, len(clips), batch_size))

    def read(start: int) -> np.ndarray:
        return clips.batch(start, min(start + batch_size, len(clips)))

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        coming = pool.submit(read, starts[0]) if starts and ahead else None
        for number, start in enumerate(tqdm(starts, desc=name, unit="batch", disable=not starts)):
            batch = coming.result() if coming is not None else read(start)
            if ahead and number + 1 < len(starts):
                coming = pool.submit(read, starts[number + 1])
            clock = time.perf_counter()
            rows = measure(batch)
            measuring += time.perf_counter() - clock
            _store(folder, start, start + len(batch), rows)
            parts.append(rows)
    rows = {name: np.concatenate([part[name] for part in parts])[: len(clips)] for name in parts[0]}
    return PassResult(rows, time.perf_counter() - began, measuring, len(clips) - found, found)


def _stored(folder: pathlib.Path, count: int, parts: list) -> int:
    """Reads the parts that follow one another from the first clip on; returns how many clips they cover."""
    done = 0
    files = {int(path.stem.split("_")[0]): path for path in folder.glob("*.npz") if path.stem[0].isdigit()}
    while done < count and done in files:
        try:
            with np.load(files[done], allow_pickle=False) as arrays:
                part = {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            break
        parts.append(part)
        done += len(next(iter(part.values())))
    # All processes go on from the same clip.
    agreed = int(np.min(multihost_utils.process_allgather(np.asarray(done))))
    while done > agreed:
        done -= len(next(iter(parts.pop().values())))
    return done


def _store(folder: pathlib.Path, start: int, stop: int, rows: dict[str, np.ndarray]) -> None:
    for name, array in rows.items():
        if len(array) != stop - start:
            raise ValueError(f"the measure gave {len(array)} rows of {name} for {stop - start} clips")
    unfinished = folder / f".{start:08d}.npz"
    np.savez(unfinished, **rows)
    unfinished.replace(folder / f"{start:08d}_{stop:08d}.npz")
