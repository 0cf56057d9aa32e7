"""An evaluation from start to card: two sets of videos, or a trained model against its data.

Each function checks all that it can before the long work starts, keeps what it has measured (see `passes`), and
returns a card: a JSON object with the numbers and all that they depend on (see `card`).
"""

import dataclasses
import hashlib
import pathlib
import sys
import typing
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from pvdm_jax.config import ConfigError, DataConfig, MeshConfig, require
from pvdm_jax.config.evaluation import ProtocolConfig
from pvdm_jax.data.clips import center_crop_resize
from pvdm_jax.data.dataset_files import is_dataset
from pvdm_jax.evaluation import statistics
from pvdm_jax.evaluation.c3d import FRAMES as INCEPTION_FRAMES
from pvdm_jax.evaluation.card import make_card
from pvdm_jax.evaluation.passes import PassResult, run_pass
from pvdm_jax.evaluation.reconstruction import SSIM_SIDE, gradient_energy_ratio, psnr, ssim, still_psnr
from pvdm_jax.evaluation.seams import seam_changes, seam_ratio
from pvdm_jax.evaluation.sets import ClipSet, Folder, Windows, source_clips
from pvdm_jax.evaluation.spaces import FeatureSpace, PerceptualDistance, open_classifier, open_features
from pvdm_jax.runtime import sharding

if typing.TYPE_CHECKING:
    from pvdm_jax.inference.pipeline import PVDM

SAMPLER = ("sampler", "steps", "later_steps", "eta", "guidance")  # fields of a protocol that are the sampler's


@dataclasses.dataclass(frozen=True)
class Places:
    """Where files are: stored results, weights, and the feature network's file if it has another name."""

    cache: pathlib.Path
    weights: pathlib.Path | None = None
    features_file: pathlib.Path | None = None


def evaluate_sets(
    real: pathlib.Path, fake: pathlib.Path, protocol: ProtocolConfig, places: Places, batch_size: int = 16
) -> dict[str, Any]:
    """The card of the videos in `fake` against those in `real`, a folder or a dataset of `pvdm prepare`.

    Measured are the Frechet distance for each of the protocol's lengths, and the Inception score if it names it.
    Without a size in the protocol, real videos are brought to that of the first generated one. Raises
    FileNotFoundError, VideoError or ConfigError before the long work.
    """
    mesh = sharding.make_mesh(MeshConfig())
    space = _open_features(protocol, mesh, places)
    generated = Folder(fake)
    size = (protocol.height, protocol.width) if protocol.height else generated.size
    # How the generated videos came about isn't known.
    unknown = {"sampler": "", "steps": -1, "later_steps": -1, "eta": -1.0, "guidance": -1.0, "weights": ""}
    protocol = dataclasses.replace(protocol, height=size[0], width=size[1], **unknown)
    if is_dataset(real):
        # Nothing was held out from these videos: a split is one of the dataset's own, or all of them.
        data = DataConfig(source="tfds", path=str(real), holdout=0.0)
        protocol = dataclasses.replace(protocol, split="all" if protocol.split == "holdout" else protocol.split)

        def real_clips(frames: int, count: int) -> Windows:
            return source_clips(data, 0, frames, count, protocol, size)
    else:
        folder = Folder(real)
        # A folder has no splits: all of it is compared.
        protocol = dataclasses.replace(protocol, split="all")

        def real_clips(frames: int, count: int) -> Windows:
            return folder.clips(frames, count, protocol, size, real=True)

    for frames in protocol.frames:
        space.check(frames, size)
    run = _Run(protocol, places.cache, batch_size)
    run.networks["fvd"] = space.facts
    classifier = None
    if "is" in protocol.measures:
        classifier = run.try_to_open("inception_score", lambda: open_classifier(mesh, places.weights))
    sets = {
        f: (real_clips(f, protocol.real_samples), generated.clips(f, protocol.samples, protocol, size, False))
        for f in protocol.frames
    }
    for frames, (real_set, fake_set) in sets.items():
        features = [
            run.features(clips, space, f"{name} {frames}")
            for name, clips in (("real", real_set), ("generated", fake_set))
        ]
        run.frechet(frames, *features)
        run.real[f"frames_{frames}"], run.generated[f"frames_{frames}"] = real_set.facts, fake_set.facts
    if classifier is not None:
        clips = generated.clips(INCEPTION_FRAMES, protocol.inception_samples, protocol, size, False)
        run.inception(classifier, run.features(clips, classifier, "classes"))
        run.generated["inception"] = clips.facts
    for name in ("reconstruction", "seams"):
        if name in protocol.measures:
            run.not_measured[name] = "it needs a model (--model)"
    return run.card({"real": real.name, "generated": fake.name})


def evaluate_model(
    model: "PVDM",
    protocol: ProtocolConfig,
    places: Places,
    data: DataConfig | None = None,
    batch_size: int = 16,
    name: str = "model",
    sampled: np.ndarray | None = None,
    sampled_long: np.ndarray | None = None,
) -> dict[str, Any]:
    """The card of a loaded model against its data, or against `data`.

    Everything is in the protocol: how many videos it samples and how, which real clips, which network. sampled: those
    videos, where the caller has sampled them already just so, uint8 (samples, frames, height, width, 3); sampled_long:
    likewise those that are sampled for their seams, (seam_samples, seam_clips * frames of a clip, ...). Raises
    FileNotFoundError, VideoError or ConfigError before the long work.
    """
    config = model.config
    clip = config.autoencoder
    size = (protocol.height, protocol.width) if protocol.height else (clip.height, clip.width)
    chosen = {name: getattr(protocol, name) for name in SAMPLER}
    chosen = {name: value for name, value in chosen.items() if value not in ("", -1)}
    settings = dataclasses.replace(config.sample, **chosen)
    dataclasses.replace(config, sample=settings)  # `Config` checks steps against the process
    resolved = {name: getattr(settings, name) for name in SAMPLER}
    protocol = dataclasses.replace(protocol, height=size[0], width=size[1], **resolved)
    space = _open_features(protocol, model.mesh, places)
    for frames in protocol.frames:
        space.check(frames, size)
    data = data or config.data
    longest = max(protocol.frames)
    allowed = f"this model's denoiser takes no previous clip: at most a clip's {clip.frames}"
    sampled_measures = {"fvd", "is", "seams"} & set(protocol.measures)
    if sampled_measures and "denoiser" not in model.weights:
        raise ConfigError(
            "this model has no denoiser: stage 2 has not been trained; measures=reconstruction needs none"
        )
    require(
        not sampled_measures or longest <= clip.frames or config.denoiser.previous_clip,
        "protocol.frames",
        longest,
        allowed,
    )
    run = _Run(protocol, places.cache, batch_size)
    run.networks["fvd"] = space.facts
    fingerprint = model.fingerprint()
    classifier = lpips = None
    if "is" in protocol.measures:
        classifier = run.try_to_open("inception_score", lambda: open_classifier(model.mesh, places.weights))
    if "reconstruction" in protocol.measures:
        lpips = run.try_to_open("lpips", lambda: PerceptualDistance(model.mesh, places.weights))

    real: dict[int, Windows] = {}
    if "fvd" in protocol.measures:
        real = {f: source_clips(data, config.seed, f, protocol.real_samples, protocol, size) for f in protocol.frames}
    labels = _labels(model, data, protocol) if sampled_measures else None
    with_seams = "seams" in protocol.measures and "fvd" in protocol.measures and longest >= 2 * clip.frames
    if "fvd" in protocol.measures:
        videos = Generated(model, fingerprint, protocol, longest, protocol.samples, labels, size, sampled)

        def measure(batch: np.ndarray) -> dict[str, np.ndarray]:
            rows = {f"features_{f}": space(batch[:, :f], batch_size) for f in protocol.frames}
            return rows | (_seam_rows(batch, clip.frames) if with_seams else {})

        facts = {"space": space.facts, "frames": list(protocol.frames), "seams": with_seams}
        found = run.measure(videos, measure, facts, "generated")
        run.generated["videos"] = videos.facts
        for frames, clips in real.items():
            run.frechet(frames, run.features(clips, space, f"real {frames}"), found.rows[f"features_{frames}"])
            run.real[f"frames_{frames}"] = clips.facts
        if with_seams:
            run.seams(found.rows)
    if "seams" in protocol.measures and not with_seams:
        if config.denoiser.previous_clip:
            frames = protocol.seam_clips * clip.frames
            videos = Generated(model, fingerprint, protocol, frames, protocol.seam_samples, labels, size, sampled_long)
            found = run.measure(videos, lambda batch: _seam_rows(batch, clip.frames), {"seams": True}, "long videos")
            run.generated["seams"] = videos.facts
            run.seams(found.rows)
        else:
            run.not_measured["seams"] = "this model's denoiser takes no previous clip"
    if classifier is not None:
        videos = Generated(model, fingerprint, protocol, INCEPTION_FRAMES, protocol.inception_samples, labels, size)
        run.inception(classifier, run.features(videos, classifier, "classes"))
        run.generated["inception"] = videos.facts
    if "reconstruction" in protocol.measures:
        own = (clip.height, clip.width)
        clips = source_clips(data, config.seed, clip.frames, protocol.reconstruction_samples, protocol, own)
        run.real["reconstruction"] = clips.facts
        run.reconstruction(model, fingerprint, clips, space, lpips)
    return run.card({"model": name, "weights": fingerprint})


class Generated:
    """Videos that a model samples: video i is a function of the protocol's seed and i."""

    def __init__(
        self,
        model: "PVDM",
        fingerprint: str,
        protocol: ProtocolConfig,
        frames: int,
        count: int,
        labels: np.ndarray | None,
        size: tuple[int, int],
        sampled: np.ndarray | None = None,
    ):
        if sampled is not None and (sampled.dtype != np.uint8 or sampled.shape[:2] != (count, frames)):
            raise ValueError(f"sampled is {sampled.dtype} {sampled.shape}; uint8 ({count}, {frames}, ...) is needed")
        self._sampled = sampled
        self._model, self._frames, self._count, self._labels, self._size = model, frames, count, labels, size
        self._resize, self._key, self._largest = protocol.resize, jax.random.key(protocol.seed), 0
        self._options = {name: getattr(protocol, name) for name in SAMPLER}
        self.facts = {
            "weights": fingerprint,
            "clips": count,
            "frames": frames,
            "size": list(size),
            "sampling": dataclasses.asdict(dataclasses.replace(model.config.sample, **self._options)),
            "seed": protocol.seed,
            "classes": "none" if labels is None else protocol.classes,
            "labels": [] if labels is None else np.bincount(labels[labels >= 0]).tolist(),  # videos of each class
            "label_order": "" if labels is None else hashlib.sha256(labels.tobytes()).hexdigest(),
        }

    def __len__(self) -> int:
        return self._count

    def batch(self, start: int, stop: int) -> np.ndarray:
        videos = self._sample(start, stop) if self._sampled is None else self._sampled[start:stop]
        if videos.shape[2:4] == self._size:
            return videos
        return np.stack([center_crop_resize(video, *self._size, self._resize) for video in videos])

    def _sample(self, start: int, stop: int) -> np.ndarray:
        # The last batch is as large as the others, so that the sampler is compiled once.
        self._largest = max(self._largest, stop - start)
        indices = np.arange(start, start + self._largest)
        labels = None if self._labels is None else self._labels[indices % len(self._labels)]
        options = {"labels": labels, "indices": indices, **self._options}
        return np.asarray(self._model.sample(self._key, len(indices), self._frames, **options))[: stop - start]


class _Run:
    """What an evaluation has found so far."""

    def __init__(self, protocol: ProtocolConfig, cache: pathlib.Path, batch_size: int):
        self.protocol, self._cache, self._batch_size = protocol, cache, batch_size
        self.results: dict[str, dict[str, Any]] = {}
        self.networks: dict[str, Any] = {}
        self.real: dict[str, Any] = {}
        self.generated: dict[str, Any] = {}
        self.not_measured: dict[str, str] = {}
        self.passes: dict[str, dict[str, float]] = {}

    def measure(self, clips: ClipSet, measure: Callable, facts: dict[str, Any], name: str) -> PassResult:
        ahead = not isinstance(clips, Generated)
        found = run_pass(clips, measure, facts, self._cache, self._batch_size, name, ahead)
        self.passes[name] = {
            "clips": len(clips),
            "seconds": found.seconds,
            "seconds_in_network": found.measuring_seconds,
            "found_in_cache": found.found,
        }
        return found

    def features(self, clips: ClipSet, space: FeatureSpace, name: str) -> np.ndarray:
        def measure(batch: np.ndarray) -> dict[str, np.ndarray]:
            return {"features": space(batch, self._batch_size)}

        return self.measure(clips, measure, {"space": space.facts}, name).rows["features"]

    def frechet(self, frames: int, real: np.ndarray, generated: np.ndarray, prefix: str = "") -> None:
        kind = self.networks["fvd"]["network"]
        trained = kind not in ("scattering", "i3d_random")
        key = f"{prefix}{'fvd' if trained else f'frechet_{kind}'}_{frames}"
        p = self.protocol
        self.results[key] = _entry(statistics.frechet_estimate(real, generated, p.ddof, p.bootstrap, p.seed), "lower")
        self.results[key]["samples"] = [len(real), len(generated)]

    def inception(self, classifier: FeatureSpace, probabilities: np.ndarray) -> None:
        p = self.protocol
        self.networks["inception_score"] = classifier.facts
        splits = min(p.inception_splits, len(probabilities))
        estimate = statistics.inception_estimate(probabilities, splits, p.bootstrap, p.seed)
        self.results["inception_score"] = _entry(estimate, "higher") | {"samples": [len(probabilities)]}

    def reconstruction(
        self, model: "PVDM", fingerprint: str, clips: Windows, space: FeatureSpace, lpips: PerceptualDistance | None
    ) -> None:
        def measure(batch: np.ndarray) -> dict[str, np.ndarray]:
            found = model.reconstruct(batch)
            rows = {"psnr": psnr(batch, found), "still_psnr": still_psnr(batch)}
            rows["gradient_energy_ratio"] = gradient_energy_ratio(batch, found)
            if min(batch.shape[2:4]) >= SSIM_SIDE:
                rows["ssim"] = ssim(batch, found)
            if lpips is not None:
                rows["lpips"] = lpips(batch, found)
            return rows | {"real": space(batch, self._batch_size), "found": space(found, self._batch_size)}

        facts = {"space": space.facts, "weights": fingerprint, "lpips": lpips and lpips.facts}
        rows = self.measure(clips, measure, facts, "reconstruction").rows
        p = self.protocol
        self.frechet(clips.facts["frames"], rows["real"], rows["found"], "reconstruction_")
        if lpips is not None:
            self.networks["lpips"] = lpips.facts
        better = {"psnr": "higher", "still_psnr": "", "ssim": "higher", "gradient_energy_ratio": "1", "lpips": "lower"}
        for name, direction in better.items():
            if name in rows:
                finite = rows[name][np.isfinite(rows[name])]
                if len(finite):
                    estimate = statistics.mean_estimate(finite, p.bootstrap, p.seed)
                    self.results[name] = _entry(estimate, direction) | {"samples": [len(finite)]}

    def seams(self, rows: dict[str, np.ndarray]) -> None:
        changes = np.stack([rows["across"], rows["inside"]], axis=1)
        value, p = seam_ratio(*changes.T), self.protocol
        if not np.isfinite(value):
            self.not_measured["seams"] = "nothing moves within the clips"
            return
        low, high = statistics.interval(lambda x: seam_ratio(*x.T), (changes,), value, p.bootstrap, p.seed)
        estimate = statistics.Estimate(value, None if low is None else max(low, 0.0), high)
        self.results["seam_score"] = _entry(estimate, "1") | {"samples": [len(changes)]}

    def try_to_open(self, name: str, open_: Callable[[], Any]) -> Any:
        """What `open_` gives, or None, with the reason on the card and on stderr, where its weights are missing."""
        try:
            return open_()
        except FileNotFoundError as error:
            self.not_measured[name] = str(error)
            print(f"{name} is not measured: {error}", file=sys.stderr)
            return None

    def card(self, what: dict[str, str]) -> dict[str, Any]:
        return make_card(
            what,
            self.protocol,
            self.networks,
            self.real,
            self.generated,
            self.results,
            self.not_measured,
            self.passes,
        )


def _entry(estimate: statistics.Estimate, better: str) -> dict[str, Any]:
    entry = dataclasses.asdict(estimate) | {"better": better}
    return entry | {"by_count": [list(point) for point in estimate.by_count]}


def _open_features(protocol: ProtocolConfig, mesh: Any, places: Places) -> FeatureSpace:
    return open_features(protocol.features, mesh, protocol.network_resize, places.weights, places.features_file)


def _seam_rows(videos: np.ndarray, clip_frames: int) -> dict[str, np.ndarray]:
    across, inside = seam_changes(videos, clip_frames)
    return {"across": across, "inside": inside}


def _labels(model: "PVDM", data: DataConfig, protocol: ProtocolConfig) -> np.ndarray | None:
    """Classes of the videos to sample, on a model that knows classes: each in turn, or as many of each as among the
    protocol's real clips, in random order."""
    config = model.config
    if config.denoiser.num_classes == 0:
        return None
    if protocol.classes == "turn":
        return np.arange(config.denoiser.num_classes, dtype=np.int32)
    clip = config.autoencoder
    real = source_clips(data, config.seed, clip.frames, protocol.real_samples, protocol, (clip.height, clip.width))
    return np.random.default_rng([protocol.seed, 8]).permutation(real.labels())
