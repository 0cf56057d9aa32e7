"""What an evaluation has measured so far, and the card that it becomes."""

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pvdm_jax.config.evaluation import ProtocolConfig
from pvdm_jax.evaluation import statistics
from pvdm_jax.evaluation.card import make_card
from pvdm_jax.evaluation.clip_measurements import Measure, Rows, measure_clips
from pvdm_jax.evaluation.clip_sets import ClipSet
from pvdm_jax.evaluation.continuity import seam_ratio
from pvdm_jax.evaluation.feature_spaces import FeatureSpace
from pvdm_jax.evaluation.generated_clips import GeneratedClips
from pvdm_jax.evaluation.kernel_distance import MIN_SAMPLES
from pvdm_jax.evaluation.reconstruction import RECONSTRUCTION_NUMBERS

SpaceFeatures = dict[str, np.ndarray]  # features (n, dimension) by the network of their space


def feature_rows(spaces: Sequence[FeatureSpace], clips: np.ndarray, batch_size: int, name: str) -> Rows:
    """The features of clips in all spaces, as rows from which `rows_features` reads them by `name`."""
    return {f"{name} {space.network}": space(clips, batch_size) for space in spaces}


def rows_features(rows: Rows, name: str) -> SpaceFeatures:
    """The features that `feature_rows` stored."""
    return {key.removeprefix(f"{name} "): values for key, values in rows.items() if key.startswith(f"{name} ")}


class EvaluationResults:
    """Collects the numbers of one evaluation with the facts that they depend on.

    spaces: the feature spaces of the distances. cache: the folder of stored results (see `measure_clips`).
    """

    def __init__(self, protocol: ProtocolConfig, spaces: Sequence[FeatureSpace], cache: pathlib.Path, batch_size: int):
        self._protocol = protocol
        self._spaces = spaces
        self._cache = cache
        self._batch_size = batch_size
        self._numbers: dict[str, dict[str, Any]] = {}
        self._passes: dict[str, dict[str, float]] = {}
        self.networks: dict[str, Any] = {space.frechet_name: space.facts for space in spaces}
        self.real: dict[str, Any] = {}  # facts of the real clips
        self.generated: dict[str, Any] = {}  # facts of the generated clips
        self.not_measured: dict[str, str] = {}  # the reason for each number that is missing

    def try_to_open(self, name: str, open_network: Callable[[], Any]) -> Any:
        """The network that `open_network` returns; without weights None, with the reason on the card and on stderr."""
        try:
            return open_network()
        except FileNotFoundError as error:
            self.not_measured[name] = str(error)
            print(f"{name} is not measured: {error}", file=sys.stderr)
            return None

    def measure(self, clips: ClipSet, measure: Measure, facts: dict[str, Any], name: str) -> Rows:
        """Applies `measure` to every clip (see `measure_clips`), and records the time for the card."""
        found = measure_clips(
            clips,
            measure,
            facts,
            cache=self._cache,
            batch_size=self._batch_size,
            name=name,
            read_ahead=not isinstance(clips, GeneratedClips),
        )
        self._passes[name] = {
            "clips": len(clips),
            "seconds": found.seconds,
            "seconds_in_network": found.measuring_seconds,
            "found_in_cache": found.cached,
        }
        return found.rows

    def features(self, clips: ClipSet, space: FeatureSpace, name: str) -> np.ndarray:
        """Features of the clips (n, dimension)."""

        def measure(batch: np.ndarray) -> Rows:
            return {"features": space(batch, self._batch_size)}

        return self.measure(clips, measure, {"space": space.facts}, name)["features"]

    def space_features(self, clips: ClipSet, name: str) -> SpaceFeatures:
        """Features of the clips in each space. Each space has its own pass, which the cache serves separately."""
        return {space.network: self.features(clips, space, f"{name}, {space.network}") for space in self._spaces}

    def add_distances(self, frames: int, real: SpaceFeatures, generated: SpaceFeatures, prefix: str = "") -> None:
        """Adds the distances of clips of `frames` frames in each space: Frechet and, if in the protocol, kernel."""
        p = self._protocol
        for space in self._spaces:
            a, b = real[space.network], generated[space.network]
            estimate = statistics.frechet_estimate(a, b, ddof=p.ddof, resamplings=p.bootstrap, seed=p.seed)
            self.add(f"{prefix}{space.frechet_name}_{frames}", estimate, better="lower", samples=[len(a), len(b)])
            if "kernel" not in p.measures:
                continue
            name = f"{prefix}kernel_{space.network}_{frames}"
            if min(len(a), len(b)) >= MIN_SAMPLES:
                self.add(name, statistics.kernel_estimate(a, b), better="lower", samples=[len(a), len(b)])
            else:
                self.not_measured[name] = f"there are {len(a)} and {len(b)} clips; it needs {MIN_SAMPLES} of each"

    def add_inception_score(self, classifier: FeatureSpace, probabilities: np.ndarray) -> None:
        """Adds the Inception score of class probabilities (n, classes)."""
        p = self._protocol
        self.networks["inception_score"] = classifier.facts
        splits = min(p.inception_splits, len(probabilities))
        estimate = statistics.inception_estimate(probabilities, splits=splits, resamplings=p.bootstrap, seed=p.seed)
        self.add("inception_score", estimate, better="higher", samples=[len(probabilities)])

    def add_reconstruction(self, frames: int, rows: Rows) -> None:
        """Adds the numbers of reconstructed clips: rows in RECONSTRUCTION_NUMBERS, and features of `feature_rows`."""
        self.add_distances(frames, rows_features(rows, "real"), rows_features(rows, "found"), "reconstruction_")
        for name, (better, _) in RECONSTRUCTION_NUMBERS.items():
            if name not in rows:
                continue
            finite = rows[name][np.isfinite(rows[name])]
            if len(finite):
                estimate = statistics.mean_estimate(finite, self._protocol.bootstrap, self._protocol.seed)
                self.add(name, estimate, better=better, samples=[len(finite)])

    def add_mean(self, name: str, values: np.ndarray, *, better: str) -> None:
        """Adds the mean of a non-negative number (n,) over clips.

        better: "higher", "lower", "1" (the nearer to 1) or "" (neither).
        """
        estimate = statistics.mean_estimate(values, self._protocol.bootstrap, self._protocol.seed)
        if estimate.low is not None:
            estimate = dataclasses.replace(estimate, low=max(estimate.low, 0.0))
        self.add(name, estimate, better=better, samples=[len(values)])

    def add_seams(self, rows: Rows, name: str = "seam_score") -> None:
        """Adds the seam score of long videos, from the rows "across" and "inside" (see `continuity.seam_rows`)."""
        changes = np.stack([rows["across"], rows["inside"]], axis=1)
        value = seam_ratio(*changes.T)
        if not np.isfinite(value):
            self.not_measured["seams" if name == "seam_score" else name] = "nothing moves within the clips"
            return
        p = self._protocol
        low, high = statistics.interval(
            lambda sample: seam_ratio(*sample.T), (changes,), value, resamplings=p.bootstrap, seed=p.seed
        )
        estimate = statistics.Estimate(value, None if low is None else max(low, 0.0), high)
        self.add(name, estimate, better="1", samples=[len(changes)])

    def card(self, what: dict[str, str]) -> dict[str, Any]:
        """The card; what: the names of what was evaluated."""
        return make_card(
            what,
            self._protocol,
            networks=self.networks,
            real=self.real,
            generated=self.generated,
            results=self._numbers,
            not_measured=self.not_measured,
            passes=self._passes,
        )

    def add(self, name: str, estimate: statistics.Estimate, *, better: str, samples: list[int]) -> None:
        """Adds a number. better: see `add_mean`. samples: the number of clips in each set that it compares."""
        entry = dataclasses.asdict(estimate) | {"better": better}
        by_count = [list(point) for point in estimate.by_count]
        self._numbers[name] = entry | {"by_count": by_count, "samples": samples}
