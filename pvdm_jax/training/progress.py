"""What a training run prints: the table of parameters and the progress, with the clock that measures it."""

import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

SLOW_DATA = 0.1  # fraction of the time from which on waiting for batches is shown


def parameter_table(params: Any) -> str:
    """A table of parameters per module, two levels deep. `params` is a nested dict of arrays or ShapeDtypeStructs."""
    counts: dict[str, int] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names = [jax.tree_util.keystr((key,), simple=True) for key in path]
        # The last name is the array's; the names before it are its module's.
        module = ".".join(names[:-1][:2]) or names[0]
        counts[module] = counts.get(module, 0) + int(np.prod(leaf.shape))
    total = sum(counts.values())
    width = max(len(module) for module in (*counts, "total"))
    rows = [f"  {module:<{width}}  {count:>13,}  {count / total:>6.1%}" for module, count in counts.items()]
    rule = "  " + "-" * (len(rows[0]) - 2)
    return "\n".join([f"  {'module':<{width}}  {'parameters':>13}  {'share':>6}", rule, *rows, rule]) + (
        f"\n  {'total':<{width}}  {total:>13,}"
    )


def duration(seconds: float) -> str:
    """Seconds in a readable unit: "0.4 s", "48 s", "12 min", "3 h 05 min"."""
    if seconds < 99.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


class StepClock:
    """Measures training steps without compilation, evaluation and saving.

    `resume` starts it and `pause` stops it; between them `wait` adds time spent waiting for data. Its numbers are means
    over the steps since the last `reset`, as counted by `pause`.
    """

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        self._seconds = self._waited = 0.0
        self._steps = 0
        self._since = time.perf_counter()

    def resume(self) -> None:
        self._since = time.perf_counter()

    def pause(self, steps: int) -> None:
        """Stops the clock after `steps` steps, whose results must be ready."""
        self._seconds += time.perf_counter() - self._since
        self._steps += steps

    def wait(self, seconds: float) -> None:
        self._waited += seconds

    @property
    def step_seconds(self) -> float:
        return self._seconds / self._steps

    @property
    def data_wait(self) -> float:
        """The fraction of the time spent waiting for the next batch, 0 to 1."""
        return self._waited / self._seconds


class Progress:
    """A progress bar on a terminal, plain lines elsewhere; on process 0 only.

    Both show the step, seconds per step, clips per second, the time left (at the pace so far, including evaluations and
    saves) and the loss.
    """

    def __init__(self, name: str, start: int, steps: int, batch_size: int):
        self._name, self._start, self._steps, self._batch_size = name, start, steps, batch_size
        self._begun = self._last = time.perf_counter()
        self._step_seconds = 0.0
        self._loss = self._waiting = ""
        self._main = jax.process_index() == 0
        self._bar = None

    def begin(self) -> None:
        """Shows the bar, and starts estimating the time left. Call it before the first step."""
        self._begun = self._last = time.perf_counter()
        if self._main and sys.stderr.isatty():
            layout = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}"
            self._bar = tqdm(
                total=self._steps, initial=self._start, desc=self._name, bar_format=layout, dynamic_ncols=True
            )

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        if self._bar is not None:
            self._bar.write(text)
        elif self._main:
            print(text, flush=True)

    def advance(self, step: int) -> None:
        """Moves the bar. Call it after every step."""
        now = time.perf_counter()
        elapsed, self._last = now - self._last, now
        self._step_seconds = 0.9 * self._step_seconds + 0.1 * elapsed if self._step_seconds else elapsed
        if self._bar is not None:
            self._bar.postfix = self._describe(step, self._step_seconds)
            self._bar.update(step - self._bar.n)

    def report(self, step: int, step_seconds: float, data_wait: float, values: Mapping[str, float]) -> None:
        """Shows the numbers of a log, in the bar or as a line."""
        self._loss = f"{values['loss']:.4g}" if "loss" in values else ""
        self._waiting = f", {data_wait:.0%} waiting for data" if data_wait >= SLOW_DATA else ""
        if self._bar is None:
            share = f"{step}/{self._steps} ({step / self._steps:.0%})"
            others = "".join(f", {name} {value:.4g}" for name, value in values.items() if name != "loss")
            self.say(f"{self._name} {share}: {self._describe(step, step_seconds)}{others}")
        else:
            self._bar.postfix = self._describe(step, step_seconds)
            self._bar.refresh()

    def retarget(self, steps: int) -> None:
        """Changes the total number of steps of the run."""
        self._steps = steps
        if self._bar is not None:
            self._bar.total = steps

    def skip(self) -> None:
        """Excludes the time since the last step from the bar's step time."""
        self._last = time.perf_counter()

    def _describe(self, step: int, step_seconds: float) -> str:
        left = (time.perf_counter() - self._begun) / (step - self._start) * (self._steps - step)
        pace = f"{_milliseconds(step_seconds)}/step, {_compact(self._batch_size / step_seconds)} clips/s"
        loss = f", loss {self._loss}" if self._loss else ""
        return f"{pace}, {duration(left)} left{loss}{self._waiting}"

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _milliseconds(seconds: float) -> str:
    return f"{_compact(seconds * 1000)} ms" if seconds < 1 else f"{seconds:.2f} s"


def _compact(value: float) -> str:
    """Three significant digits, and never an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
