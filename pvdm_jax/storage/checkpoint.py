"""Checkpoints of a training stage, with Orbax.

A checkpoint holds the stage's state and a JSON record. The state is stored as nested dicts named after its fields, so
files do not depend on class names, and one part of it (the EMA) can be read alone. A checkpoint whose files are damaged
is skipped with a warning and the previous one is used: Orbax by itself only offers the newest. best.json, in the
stage's folder, names the best checkpoint, which everything outside training reads.

A checkpoint's record has a fingerprint of each part of the state and one of the record itself. Everything that is read
is compared with them, so a flipped bit is detected as well.

A save that fails (a full disk, a lost bucket) raises CheckpointError, at the latest at the next `check`. The files of a
failed save do not count as a checkpoint, and older checkpoints are removed only once a newer one is complete. The first
checkpoint of a stage is read back before `save` returns, in case the storage accepts files but can't return them.
"""

import contextlib
import copy
import dataclasses
import logging
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import SingleDeviceSharding
from orbax.checkpoint import checkpoint_managers as policy

from pvdm_jax.storage import buckets
from pvdm_jax.storage.checkpoint_parts import (
    NEEDED,
    NOT_DAMAGE,
    attempt,
    make_record,
    restore_info,
    restore_part,
    restore_state,
    to_dicts,
)
from pvdm_jax.storage.files import CheckpointError
from pvdm_jax.storage.json_files import read_json
from pvdm_jax.storage.run_folder import BEST, CHECKPOINTS, StageFolder, check_folder_name


class Checkpoints:
    """The checkpoints of one stage, in `directory/checkpoints`.

    Keeps the newest `keep` checkpoints, those that these need (the best, and what a run may go back to), and for good
    those of every `keep_every` steps (0: none). A context manager: leaving it waits for a save in progress. Raises
    ConfigError for a directory in which Orbax can't keep checkpoints.
    """

    def __init__(self, directory: str | pathlib.Path, keep: int, keep_every: int = 0):
        check_folder_name(directory)
        needed = _NeededByLatest(keep)
        self._needed = needed.steps
        policies = [policy.LatestN(keep), needed, *([policy.EveryNSteps(keep_every)] if keep_every else [])]
        # A process killed while it was saving leaves a temporary folder behind.
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy.AnyPreservationPolicy(policies), cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(_place(directory), options=options)
        self._folder = self._manager.directory
        self._read_back = not self._manager.all_steps()  # whether the next checkpoint must be read back

    def save(self, step: int, state: Any, info: dict[str, Any], needed: Sequence[int] = ()) -> None:
        """Saves in the background. `info` must be JSON. Afterwards, the state may be donated and the info changed.

        needed: steps of other checkpoints, which are kept as long as this one is among the newest.
        """
        self._needed[step] = list(needed)
        parts = to_dicts(state)
        # Orbax copies the arrays before it returns, but writes the record later, with any changes made by then.
        record = make_record(copy.deepcopy(info) | {NEEDED: list(needed)}, parts)
        args = ocp.args.Composite(state=ocp.args.StandardSave(parts), info=ocp.args.JsonSave(record))
        with self._failures():
            self._manager.save(step, args=args, force=True)
            if self._read_back:
                self._manager.wait_until_finished()
        if self._read_back:
            self._check_readable(step, parts)
            self._read_back = False

    def _check_readable(self, step: int, parts: dict[str, Any]) -> None:
        """Raises CheckpointError unless all parts of a checkpoint can be read, one by one, into host memory."""
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), parts)
        try:
            # Orbax can read single parts of a checkpoint only with a manager that has written none.
            with ocp.CheckpointManager(self._folder, options=ocp.CheckpointManagerOptions(create=False)) as manager:
                for name, part in shapes.items():
                    restore_part(manager, step, {name: part}, np.ndarray)
        except NOT_DAMAGE:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise CheckpointError(
                f"the first checkpoint, of step {step}, was written to {self._folder} but can't be read back ({reason})"
            ) from error

    def restore(
        self, abstract: Any, check: Callable[[dict[str, Any]], None] | None = None
    ) -> tuple[Any, int, dict[str, Any]] | None:
        """The newest readable checkpoint as (state, step, info), or None if there are no checkpoints.

        `abstract` is the state as ShapeDtypeStructs with shardings. `check` is called with a checkpoint's info before
        its arrays are read; an exception ends the search. Damaged checkpoints that are newer than the one returned are
        renamed, so that their steps can be saved again. Raises OSError if none can be read.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for index, step in enumerate(steps):
            info = self._attempt(step, restore_info)
            if info is None:
                continue
            if check is not None:
                check(info)
            state = self._attempt(step, restore_state, abstract)
            if state is not None:
                self._set_aside(steps[:index])
                self._needed[step] = info.pop(NEEDED)
                for older in steps[index + 1 :]:
                    older_info = self._attempt(older, restore_info)
                    self._needed[older] = older_info[NEEDED] if older_info else []
                return state, step, info
        if steps:
            raise OSError(f"none of the checkpoints in {self._folder} can be read (steps {_listing(steps)})")
        return None

    def restore_step(self, step: int, abstract: Any) -> Any:
        """The state of the checkpoint of `step`. Raises OSError if it cannot be read."""
        state = self._attempt(step, restore_state, abstract)
        if state is None:
            raise OSError(f"the checkpoint of step {step} in {self._folder} can't be read")
        return state

    def _attempt(self, step: int, read: Callable[..., Any], *args: Any) -> Any:
        """`read`'s result, or None if any process finds the checkpoint damaged: all must restore the same one."""
        result = attempt(self._manager, step, read, *args)
        everywhere = multihost_utils.process_allgather(np.asarray(result is not None))
        return result if np.all(everywhere) else None

    def _set_aside(self, steps: Sequence[int]) -> None:
        if not steps:
            return
        if jax.process_index() == 0:
            for step in steps:
                (self._folder / str(step)).rename(self._folder / f"unreadable_{step}_{time.time_ns()}")
        multihost_utils.sync_global_devices("unreadable checkpoints set aside")
        self._manager.reload()

    def check(self) -> None:
        """Raises CheckpointError if a save has failed. Does not wait for saves in progress."""
        with self._failures():
            self._manager.check_for_errors()

    def wait(self) -> None:
        """Returns once every save has finished; raises CheckpointError if one has failed."""
        with self._failures():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for saves in progress, and ends Orbax's threads."""
        with self._failures():
            self._manager.close()

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """Turns what Orbax raises into a CheckpointError that names the newest complete checkpoint."""
        try:
            yield
        except Exception as error:
            reason = " ".join(str(error).split())[:500]
            try:
                self._manager.reload()
                steps = sorted(self._manager.all_steps())
                left = f"the newest complete one is of step {steps[-1]}" if steps else "there is no complete one"
            except Exception as unlisted:
                left = f"the existing ones can't be listed ({type(unlisted).__name__})"
            raise CheckpointError(
                f"a checkpoint can't be written to {self._folder} ({type(error).__name__}: {reason}); {left}"
            ) from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        try:
            self.close()
        except CheckpointError as error:
            if kind is None:
                raise
            if not issubclass(kind, CheckpointError):  # a CheckpointError is already being raised
                logging.warning("%s", error)


@dataclasses.dataclass
class _NeededByLatest(policy.PreservationPolicy):
    """Keeps the checkpoints that the newest `n` need. steps: for each checkpoint's step, the steps that it needs."""

    n: int
    steps: dict[int, Sequence[int]] = dataclasses.field(default_factory=dict)

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        needed = {step for checkpoint in checkpoints[-self.n :] for step in self.steps.get(checkpoint.step, ())}
        return [checkpoint.step in needed for checkpoint in checkpoints]


def _place(directory: str | pathlib.Path) -> str:
    """The folder of the checkpoints of the stage in `directory`: within it, or in its bucket."""
    return f"{buckets.url(directory)}/{CHECKPOINTS}"


def best_step(directory: str | pathlib.Path) -> int | None:
    """The step of the best checkpoint of the stage in `directory`, by its best.json; None if it names none."""
    path = StageFolder(directory).best
    step = read_json(path, {"best_step": int})["best_step"] if path.exists() else -1
    return None if step < 0 else step


def read_part(directory: str | pathlib.Path, part: str, abstract: Any) -> Any:
    """One part of the state, such as "ema", of the stage's best checkpoint; the other parts are not read.

    If best.json names none, or that checkpoint is damaged, the newest readable one is used. directory: the stage's.
    abstract: the part as ShapeDtypeStructs; leaves without a sharding go to this process's first device. Raises
    FileNotFoundError if there is no checkpoint, OSError if none can be read. Nothing in the directory is changed.
    """
    buckets.fetch(pathlib.Path(directory), BEST)
    folder = _place(directory)
    if not (buckets.in_bucket(folder) or pathlib.Path(folder).is_dir()):
        raise FileNotFoundError(f"there are no checkpoints in {folder}")
    device = SingleDeviceSharding(jax.local_devices()[0])
    placed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding or device), abstract)
    with ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(create=False)) as manager:
        best, steps = best_step(directory), sorted(manager.all_steps(), reverse=True)
        for step in sorted(steps, key=lambda step: step != best):
            tree = attempt(manager, step, restore_part, {part: placed})
            if tree is not None:
                return tree[part]
    if not steps:
        raise FileNotFoundError(f"there are no checkpoints in {folder}")
    raise OSError(f"{part!r} can't be read from any checkpoint in {folder} (steps {_listing(steps)})")


def _listing(steps: Sequence[int]) -> str:
    return ", ".join(map(str, steps))
