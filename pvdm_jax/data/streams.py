"""Endless streams of batches, read ahead by Grain's threads or processes.

A stream takes the items of a set in a new random order in every epoch. Batch k of a stream is a function of (seed, k)
alone: not of the number of threads, of worker processes, or of processes of a multi-host run that share it. A run that
is restarted therefore continues with the same batches.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import grain
import numpy as np

from pvdm_jax.config import DataConfig
from pvdm_jax.data.samples import ORDER, Replacing, check_not_empty

# The number of samples in a stream, which Grain asks for.
ENDLESS = 2**62


class Sample(Protocol):
    """Makes the samples of a stream. It is sent to worker processes."""

    read: Replacing | None  # what reads the videos, if any

    def __call__(self, number: int, index: int) -> dict:
        """Sample `number` of the stream, made from item `index`: a function of the two numbers."""

    def video(self, index: int) -> str:
        """The name of the video that item `index` is from."""


@dataclasses.dataclass(frozen=True)
class ProcessShare:
    """Which of `count` equal, contiguous parts of every batch this process makes."""

    index: int = 0
    count: int = 1

    @classmethod
    def current(cls) -> "ProcessShare":
        """The share of this process in a JAX run."""
        import jax

        return cls(jax.process_index(), jax.process_count())


@dataclasses.dataclass(frozen=True)
class BatchSpec:
    """Which batches of a stream a process makes. Raises ValueError if the processes can't share a batch evenly."""

    batch_size: int  # of all processes together
    seed: int
    start_step: int = 0  # the first batch
    share: ProcessShare = ProcessShare()

    def __post_init__(self):
        if self.batch_size % self.share.count:
            raise ValueError(
                f"batch_size is {self.batch_size}; it must be a multiple of the number of processes "
                f"({self.share.count})"
            )

    @property
    def rows(self) -> range:
        """The rows of each batch that this process makes."""
        size = self.batch_size // self.share.count
        return range(self.share.index * size, (self.share.index + 1) * size)


class Batches(Iterator[Any]):
    """An iterator of batches. `close` ends its threads and worker processes.

    broken: {name: reason} of the videos that were replaced (by this process, not by its workers).
    """

    def __init__(
        self,
        iterator: Iterator[Any],
        broken: dict[str, str],
        videos: Callable[[int], list[str]] = lambda step: [],
        convert: Callable[[Any], Any] = lambda batch: batch,
    ):
        self._iterator = iterator
        self._convert = convert
        self.broken = broken
        self._videos = videos

    def __next__(self) -> Any:
        return self._convert(next(self._iterator))

    def videos(self, step: int) -> list[str]:
        """The names of the videos of batch `step`, over all processes' shares in order.

        Nothing is decoded, so videos that would be replaced are listed under their own names.
        """
        return self._videos(step)

    def map(self, function: Callable[[Any], Any]) -> "Batches":
        """The same stream with `function` applied to each batch, in the thread that requests it."""
        return Batches(self._iterator, self.broken, self._videos, lambda batch: function(self._convert(batch)))

    def close(self) -> None:
        if hasattr(self._iterator, "close"):
            self._iterator.close()


def endless_batches(sample: Sample, size: int, data: DataConfig, spec: BatchSpec) -> Batches:
    """This process's share of the endless batches of sample(n, item) for n = 0, 1, ...

    Item n is element n of the numbers below `size`, reshuffled in every epoch; batch k consists of the samples
    k * batch_size, ..., (k + 1) * batch_size - 1. data: how many workers and threads make the batches, and how far
    ahead. Raises ValueError if `size` is 0.
    """
    check_not_empty(size)
    order = _Order(size, spec.seed)
    numbers = grain.MapDataset.range(spec.start_step * len(spec.rows), ENDLESS)
    batches = numbers.map(_Numbered(sample, spec, order)).batch(len(spec.rows))

    def videos(step: int) -> list[str]:
        first = step * spec.batch_size
        return [sample.video(order(number)) for number in range(first, first + spec.batch_size)]

    return Batches(_read_ahead(batches, data), sample.read.broken if sample.read else {}, videos)


def listed_batches(items: Sequence[dict], rows: Sequence[Sequence[int]], data: DataConfig, read: Replacing) -> Batches:
    """One batch for each list in `rows`: these items (dicts of arrays), stacked. read: what reads the items' videos."""
    numbers = grain.MapDataset.range(len(rows)).map(_Rows(items, rows))
    return Batches(_read_ahead(numbers, data), read.broken)


def _read_ahead(dataset: grain.MapDataset, data: DataConfig) -> Iterator[Any]:
    """An iterator over `dataset`, read ahead by `data.threads` threads in each of `data.workers` processes."""
    # Each thread makes whole elements, so the consumer's thread has nothing left to do.
    options = grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=max(data.prefetch, data.threads))
    elements = dataset.to_iter_dataset(options)
    if data.workers:
        from absl import flags

        if not flags.FLAGS.is_parsed():  # Grain's workers read absl's flags, which only absl programs parse
            flags.FLAGS.mark_as_parsed()
        buffer = max(1, data.prefetch // data.workers)
        elements = elements.mp_prefetch(grain.MultiprocessingOptions(data.workers, per_worker_buffer_size=buffer))
    return iter(elements)


class _Order:
    """Element n of the numbers below `size`, reshuffled in every epoch.

    Grain's own shuffle takes a millisecond per element on small sets.
    """

    KEPT = 4  # epochs, as threads may work on neighbouring ones

    def __init__(self, size: int, seed: int):
        self._size = size
        self._seed = seed
        self._epochs: dict[int, np.ndarray] = {}

    def __call__(self, number: int) -> int:
        epoch, place = divmod(number, self._size)
        order = self._epochs.get(epoch)
        if order is None:
            order = np.random.default_rng([self._seed, ORDER, epoch]).permutation(self._size).astype(np.int32)
            # A new dict, so that no other thread sees a dict that changes meanwhile.
            recent = sorted(self._epochs.items())[-self.KEPT + 1 :]
            self._epochs = dict([*recent, (epoch, order)])
        return int(order[place])


@dataclasses.dataclass(frozen=True)
class _Numbered:
    """A process's sample number 0, 1, ... of a stream."""

    sample: Sample
    spec: BatchSpec
    order: _Order

    def __call__(self, local: int) -> dict:
        step, row = divmod(int(local), len(self.spec.rows))
        number = step * self.spec.batch_size + self.spec.rows[row]
        return self.sample(number, self.order(number))


@dataclasses.dataclass(frozen=True)
class _Rows:
    """The stacked items of list number 0, 1, ..."""

    items: Sequence[dict]
    rows: Sequence[Sequence[int]]

    def __call__(self, number: int) -> dict:
        found = [self.items[int(row)] for row in self.rows[int(number)]]
        return {name: np.stack([item[name] for item in found]) for name in found[0]}
