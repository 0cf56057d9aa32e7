"""PVDM: a trained model, ready to use.

`sample` is one compiled call: all clips of all videos, all steps, decoding and conversion to uint8, sharded over the
devices. `stream` gives the same videos clip by clip, in constant memory whatever their length.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from pvdm_jax.config import Config, ConfigError, MeshConfig
from pvdm_jax.diffusion.samplers import count_calls
from pvdm_jax.inference.latent_model import LatentModel
from pvdm_jax.inference.requests import Request, check_latents, check_length, check_video, make_request
from pvdm_jax.inference.sampler import (
    SampleBatch,
    SamplingProgram,
    check_continues,
    check_interpolates,
    clips_of,
    settings_of,
)
from pvdm_jax.models import functional
from pvdm_jax.models.latent import LatentScale
from pvdm_jax.runtime import sharding


class PVDM:
    """A video model: the weights of the autoencoder and of the denoiser (or None), the configuration that made them,
    and the card of their model folder (`card`; empty for a run).

    Videos are uint8 (b, t, height, width, 3) of the size in `config.autoencoder`; latents are float32 (b, positions,
    channels), whose positions `latent_spec` describes. Options of `sample`, `stream`, `extend`, `interpolate` and
    `preview` are fields of SampleConfig; those that are absent or None come from `config.sample`. The devices are those
    of this process: several hosts can share out videos, but not the work on one video.
    """

    make_model = LatentModel  # makes the networks, from the configurations of autoencoder and denoiser

    def __init__(
        self,
        config: Config,
        autoencoder: functional.Params,
        denoiser: functional.Params | None = None,
        class_names: tuple[str, ...] = (),
        mesh: Mesh | None = None,
        card: Mapping[str, Any] | None = None,
    ):
        self.config, self.class_names = config, class_names
        self.card = dict(card or {})
        self.mesh = mesh or sharding.make_mesh(MeshConfig(), jax.local_devices())
        self.model = self.make_model(config.autoencoder, config.denoiser, self.mesh)
        self.latent_spec = self.model.spec
        self.program = SamplingProgram(config, self.model)
        weights = {"autoencoder": autoencoder} | ({} if denoiser is None else {"denoiser": denoiser})
        self.weights = jax.device_put(weights, sharding.parameter_shardings(self.mesh, weights))
        self._encode = jax.jit(self.program.encode)
        self._decode = jax.jit(self.program.decode)
        self._confirm = jax.jit(self.program.confirm)
        self._generate = jax.jit(self.program.generate, static_argnames=("settings", "clips", "given"))
        self._preview = jax.jit(self.program.preview, static_argnames=("settings",))

    @functools.cached_property
    def scale(self) -> LatentScale:
        """How the denoiser sees latents. Raises ConfigError if the configuration lacks the statistics."""
        return LatentScale.of(self.latent_spec, self.config.latents)

    def encode(self, video: np.ndarray | jax.Array) -> np.ndarray:
        """The latents (b, positions, channels) of clips, uint8 (b, frames, height, width, 3).

        Raises TypeError for pixels of another type, ValueError for another shape.
        """
        check_video(self.config.autoencoder, video, one_clip=True)
        return self._over_batches(self._encode, np.asarray(video))

    def decode(self, latents: np.ndarray | jax.Array) -> np.ndarray:
        """The clips of latents (b, positions, channels): uint8 (b, frames, height, width, 3).

        Raises TypeError for latents that are not floating-point numbers, ValueError for another shape.
        """
        return self._over_batches(self._decode, check_latents(self.latent_spec.shape, latents))

    def reconstruct(self, video: np.ndarray) -> np.ndarray:
        """Encodes and decodes uint8 videos (b, t, height, width, 3), clip by clip; t must be a multiple of a clip's
        frames."""
        check_video(self.config.autoencoder, video)
        frames = self.config.autoencoder.frames
        if video.shape[1] % frames:
            raise ValueError(f"video has {video.shape[1]} frames; it must be a multiple of a clip's {frames}")
        clips = np.asarray(video).reshape(-1, frames, *video.shape[2:])
        return self.decode(self.encode(clips)).reshape(video.shape)

    def sample(
        self,
        key: jax.Array,
        num_videos: int = 1,
        num_frames: int | None = None,
        *,
        labels: Sequence[int] | np.ndarray | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        **options: Any,
    ) -> np.ndarray:
        """New videos, uint8 (num_videos, num_frames, height, width, 3); the same key gives the same videos.

        num_frames: any number (None: one clip), sampled clip by clip. labels: (num_videos,) class indices, -1 for
        none. indices: the numbers of the videos (None: 0, 1, ...). Video i depends only on the key and i, not on
        num_videos or the devices.
        """
        request = self._request(
            key, {}, count=num_videos, num_frames=num_frames, labels=labels, indices=indices, options=options
        )
        return self._run_at_once(request)

    def stream(
        self,
        key: jax.Array,
        num_videos: int = 1,
        num_frames: int | None = None,
        *,
        video: np.ndarray | None = None,
        labels: Sequence[int] | np.ndarray | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        **options: Any,
    ) -> Iterator[np.ndarray]:
        """The videos of `sample`, or with `video` those of `extend`, clip by clip: uint8 (num_videos, at most a clip's
        frames, height, width, 3). Memory doesn't grow with num_frames, and no length compiles anything new."""
        neighbours = {} if video is None else self._previous(video)
        count = num_videos if video is None else len(video)
        request = self._request(
            key, neighbours, count=count, num_frames=num_frames, labels=labels, indices=indices, options=options
        )
        return self._run_clip_by_clip(request)

    def extend(
        self,
        video: np.ndarray,
        num_frames: int,
        key: jax.Array,
        *,
        labels: Sequence[int] | np.ndarray | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        **options: Any,
    ) -> np.ndarray:
        """`num_frames` new frames that follow each video: uint8 (b, num_frames, height, width, 3).

        video: uint8 (b, t, height, width, 3), of at least one clip; the new frames follow its last clip. Other
        arguments as in `sample`. Raises ConfigError for a model that takes no previous clip.
        """
        neighbours = self._previous(video)
        request = self._request(
            key, neighbours, count=len(video), num_frames=num_frames, labels=labels, indices=indices, options=options
        )
        return self._run_at_once(request)

    def interpolate(
        self,
        first: np.ndarray,
        second: np.ndarray,
        key: jax.Array,
        *,
        labels: Sequence[int] | np.ndarray | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        **options: Any,
    ) -> np.ndarray:
        """One clip between each pair of videos: uint8 (b, frames, height, width, 3).

        first, second: uint8 (b, t, height, width, 3) of at least one clip. The new clip lies between the last clip of
        `first` and the first clip of `second`. Raises ConfigError for a model that wasn't trained for this
        (denoiser.next_clip).
        """
        check_interpolates(self.config)
        frames = self.config.autoencoder.frames
        for name, video in (("first", first), ("second", second)):
            check_length(self.config.autoencoder, video, name)
        if len(first) != len(second):
            raise ValueError(f"there are {len(first)} first and {len(second)} second videos; they go in pairs")
        neighbours = {"previous": self._neighbour(first[:, -frames:]), "next": self._neighbour(second[:, :frames])}
        request = self._request(
            key, neighbours, count=len(first), num_frames=frames, labels=labels, indices=indices, options=options
        )
        return self._run_at_once(request)

    def preview(
        self,
        key: jax.Array,
        num_videos: int = 1,
        *,
        every: int = 1,
        labels: Sequence[int] | np.ndarray | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        **options: Any,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The denoising of the first clips of `sample`: the denoiser's estimates of them at every `every`-th of its
        calls, and at the last.

        Returns uint8 (previews, num_videos, frames, height, width, 3) and the process's times, (previews,) int32.
        """
        if every < 1:
            raise ValueError(f"every is {every}; it must be positive")
        request = self._request(
            key, {}, count=num_videos, num_frames=None, labels=labels, indices=indices, options=options
        )
        latents, estimates, times = self._preview(
            self.weights, request.key, request.batch, request.numbers, settings=request.settings
        )
        chosen = np.arange(len(times))[::-1][::every][::-1]  # the last is always among them
        estimates = sharding.to_numpy(estimates)[chosen, :num_videos]
        flat = estimates.reshape(-1, *estimates.shape[2:])
        if request.settings.plane_order == "confirm":
            # All previews of a clip get the plane order that is confirmed for the finished clip.
            _, _, exchanged = self._over_batches(self._confirm, sharding.to_numpy(latents)[:num_videos])
            exchange = self.latent_spec.exchange()
            flat = np.where(np.tile(exchanged, len(chosen))[:, None, None], flat[:, exchange], flat)
        videos = self._over_batches(self._decode, flat)
        return videos.reshape(len(chosen), num_videos, *videos.shape[1:]), np.asarray(times)[chosen]

    def fingerprint(self) -> str:
        """A hash of all weights, with their names."""
        return functional.fingerprint(self.weights)

    def calls(self, num_frames: int | None = None, given: bool = False, **options: Any) -> int:
        """How often the denoiser is called for a video of `num_frames`."""
        settings, clips = settings_of(self.config, options), clips_of(self.config, num_frames)
        first, later = (count_calls(*settings.solver(later)[:2], self.program.process) for later in (False, True))
        return clips * later if given else first + (clips - 1) * later

    def _previous(self, video: np.ndarray) -> dict[str, np.ndarray]:
        """The last clip of videos as a neighbour, {"previous": normalised latents (b, positions, channels)}."""
        check_length(self.config.autoencoder, video, "video")
        check_continues(self.config, None, given=True)
        return {"previous": self._neighbour(video[:, -self.config.autoencoder.frames :])}

    def _neighbour(self, clips: np.ndarray) -> np.ndarray:
        """The normalised latents of clips, as the denoiser sees neighbouring clips."""
        self._check_denoiser()
        return self.scale.normalize(self.encode(clips))

    def _request(self, key: jax.Array, neighbours: Mapping[str, np.ndarray], **asked: Any) -> Request:
        self._check_denoiser()
        return make_request(self.config, self.model, self.mesh, key, neighbours, **asked)

    def _run_at_once(self, request: Request) -> np.ndarray:
        video, _ = self._call(request, request.batch, number=0, clips=request.clips, given=request.given)
        return sharding.to_numpy(video)[: request.count, : request.frames]

    def _run_clip_by_clip(self, request: Request) -> Iterator[np.ndarray]:
        batch, waiting = request.batch, None
        for number in range(request.clips):
            video, condition = self._call(request, batch, number=number, clips=1, given=request.given or number > 0)
            batch = dataclasses.replace(batch, condition=condition)
            # The devices work on a clip while the previous one is copied from them and written.
            if waiting is not None:
                yield sharding.to_numpy(waiting)[: request.count]
            waiting = video
        last = request.frames - (request.clips - 1) * self.config.autoencoder.frames
        yield sharding.to_numpy(waiting)[: request.count, :last]

    def _call(self, request: Request, batch: SampleBatch, *, number: int, clips: int, given: bool) -> Any:
        return self._generate(
            self.weights,
            request.key,
            np.int32(number),
            batch,
            request.numbers,
            settings=request.settings,
            clips=clips,
            given=given,
        )

    def _over_batches(self, function: Any, items: np.ndarray) -> Any:
        """Applies `function(weights, batch)` to all items, in batches of at most `config.encode.batch_size`."""
        size = min(self.config.encode.batch_size, len(items))
        return sharding.map_batches(self.mesh, lambda batch: function(self.weights, batch), items, size)

    def _check_denoiser(self) -> None:
        if "denoiser" not in self.weights:
            raise ConfigError("this model has no denoiser: stage 2 has not been trained")
