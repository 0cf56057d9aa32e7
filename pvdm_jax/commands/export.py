"""`pvdm export`: writes a run as a model folder to share, and its sampler as a program that runs without this package.

The model folder is that of `weights.model_folder`. The program is the whole sampler, from a seed to finished videos, as
StableHLO (`jax.export`), in the folder beside the weights:

    sampler.jax   the program: called with (weights, seed, index, label), it returns uint8 videos
    sampler.json  its arguments and results, and the sampling settings that are part of it

weights is {"autoencoder": arrays by name, "denoiser": ...} as in the safetensors files of the folder, or {} if they are
inside the program. seed is a uint32 scalar, index is uint32 (b,): video i of a seed is the same as video i of
`PVDM.sample` and of `pvdm sample`. label is int32 (b,), -1 for no class. `examples/run_exported_sampler.py` runs it.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pvdm_jax.commands import familiarity
from pvdm_jax.config import ConfigError, config_to_dict, require
from pvdm_jax.evaluation.card import read_card
from pvdm_jax.inference.loading import load
from pvdm_jax.inference.pipeline import PVDM
from pvdm_jax.inference.sampler import (
    SampleBatch,
    SamplingProgram,
    check_continues,
    clips_of,
    settings_of,
    split_settings,
)
from pvdm_jax.models import functional
from pvdm_jax.runtime.keys import make_key
from pvdm_jax.storage.files import check_new_folder
from pvdm_jax.storage.run_folder import RunFolder
from pvdm_jax.weights import model_folder, packaged
from pvdm_jax.weights.model_card import EVALUATION, HELD_OUT, KEPT
from pvdm_jax.weights.run_card import run_card
from pvdm_jax.weights.weight_files import DTYPES

PROGRAM_FILE = "sampler.jax"
SIGNATURE_FILE = "sampler.json"
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
DEFAULT_PLATFORMS = ("cpu", "cuda", "tpu")
INSIDE_LIMIT = 2**30  # bytes of weights inside a program; its file format ends at 2 GiB


def export(
    directory: str | pathlib.Path,
    output: str | pathlib.Path,
    *,
    dtype: str = "float32",
    sampler: bool = False,
    num_frames: int | None = None,
    options: Mapping[str, Any] | None = None,
    platforms: Sequence[str] = DEFAULT_PLATFORMS,
    batch_size: int | None = None,
    weights_inside: bool = False,
    facts: Mapping[str, str] | None = None,
    evaluation: pathlib.Path | None = None,
    held_out: int = 0,
) -> pathlib.Path:
    """Writes the model of a run, or of a model folder, as a model folder, and returns that folder.

    Args:
        directory: The folder of the run or of the model, or the name of a packaged model.
        output: The new folder.
        dtype: The dtype of the weight files.
        sampler: Whether to write the sampler as well. The arguments from num_frames to weights_inside are those of
            `export_sampler`.
        facts: Facts for the card: what the model makes (summary), license, and the command that trained it.
        evaluation: A card of `pvdm evaluate`, or its folder, whose protocol and numbers the new card shows.
        held_out: How many held-out clips of the model's data to reconstruct for the card; see `familiarity`.

    Raises FileExistsError if `output` is not empty, and ConfigError for options that are not possible, before anything
    is written.
    """
    output = pathlib.Path(output)
    check_new_folder(output)
    require(dtype in DTYPES, "dtype", dtype, f"choose one of {', '.join(DTYPES)}")
    directory = packaged.find_model(directory)
    measured = {} if evaluation is None else {EVALUATION: _evaluation(evaluation)}
    model = load(directory)
    program = {}
    if sampler:
        # The program is made first, so that a sampler that can't be exported leaves no folder.
        artifact, signature = export_sampler(
            model, num_frames, options, platforms=platforms, batch_size=batch_size, weights_inside=weights_inside
        )
        program = {PROGRAM_FILE: artifact, SIGNATURE_FILE: (json.dumps(signature, indent=2) + "\n").encode()}
    if model_folder.is_model_folder(directory):
        stored = model_folder.read_model(directory, ())
        card, data = {name: stored.card[name] for name in KEPT if name in stored.card}, stored.data
    else:
        card, data = run_card(RunFolder(directory)), model.config.data
    weights = {name: jax.tree.map(np.asarray, params) for name, params in model.weights.items()}
    if held_out:
        # Measured with the numbers that the files will hold.
        rounded = jax.tree.map(lambda x: x.astype(jnp.dtype(dtype)).astype(np.float32), weights)
        stored_model = PVDM(model.config, rounded["autoencoder"], mesh=model.mesh)
        measured[HELD_OUT] = familiarity.measure_held_out(stored_model, held_out)
    card |= {name: text for name, text in (facts or {}).items() if text} | measured
    return model_folder.write_model(
        output,
        model.config,
        weights["autoencoder"],
        weights.get("denoiser"),
        card,
        class_names=model.class_names,
        dtype=dtype,
        other_files=program,
        data=data,
    )


def _evaluation(path: pathlib.Path) -> dict[str, Any]:
    """What a model's card keeps of an evaluation's card."""
    card = read_card(path)
    return {name: card[name] for name in ("made", "protocol", "results", "networks", "software") if name in card}


def export_sampler(
    model: PVDM,
    num_frames: int | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    platforms: Sequence[str] = DEFAULT_PLATFORMS,
    batch_size: int | None = None,
    weights_inside: bool = False,
) -> tuple[bytes, dict[str, Any]]:
    """The sampler as a serialised program, and the content of sampler.json.

    Args:
        model: The trained model.
        num_frames: Frames of each video (None: one clip).
        options: Fields of `SampleConfig` that replace the model's own; they become part of the program.
        platforms: Where the program can run, among PLATFORMS.
        batch_size: Videos in each call (None: any number).
        weights_inside: Whether the program holds the weights.

    Raises ConfigError for an option, a platform or weights that can't be exported, and if flatbuffers (an extra of this
    package, "export") isn't installed.
    """
    try:
        import flatbuffers  # noqa: F401
    except ImportError as error:
        raise ConfigError("exporting a sampler needs flatbuffers: pip install 'pvdm_jax[export]'") from error
    for name in platforms:
        require(name in PLATFORMS, "platforms", name, f"choose from {', '.join(PLATFORMS)}")
    if "denoiser" not in model.weights:
        raise ConfigError("this model has no denoiser: stage 2 has not been trained")
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(model.weights))
    allowed = f"the weights have {size:,} bytes, and a program holds at most {INSIDE_LIMIT:,}: leave them beside it"
    require(not weights_inside or size <= INSIDE_LIMIT, "weights_inside", weights_inside, allowed)
    config = model.config
    settings = settings_of(config, options)
    frames, clips = num_frames or config.autoencoder.frames, clips_of(config, num_frames)
    check_continues(config, num_frames)

    program_settings, numbers = split_settings(model.model, settings, config.latents)
    inside = jax.tree.map(np.asarray, model.weights) if weights_inside else None

    # A program for any device: without a mesh, its networks use no kernel that is specific to a platform.
    networks = model.make_model(config.autoencoder, config.denoiser)
    program = SamplingProgram(config, networks)

    def run(weights, seed, index, label):
        weights = inside or {name: functional.unflatten(arrays) for name, arrays in weights.items()}
        condition = networks.absent(index.shape[0])
        if condition.label is not None:
            condition = dataclasses.replace(condition, label=label)
        batch = SampleBatch(index, condition)
        video, _ = program.generate(
            weights, make_key(seed), 0, batch, numbers, settings=program_settings, clips=clips, given=False
        )
        return video[:, :frames]

    (batch,) = jax.export.symbolic_shape("b") if batch_size is None else (batch_size,)
    flat = {} if weights_inside else {name: functional.flatten(params) for name, params in model.weights.items()}
    arguments = (
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), flat),
        jax.ShapeDtypeStruct((), jnp.uint32),
        jax.ShapeDtypeStruct((batch,), jnp.uint32),
        jax.ShapeDtypeStruct((batch,), jnp.int32),
    )
    try:
        exported = jax.export.export(jax.jit(run), platforms=tuple(platforms))(*arguments)
    except jax.errors.InconclusiveDimensionOperation as error:
        raise ConfigError(f"this model's program needs a batch size: {str(error).splitlines()[0]}") from error
    signature = {
        "takes": {
            "weights": "{}" if weights_inside else "the arrays of autoencoder.safetensors and denoiser.safetensors",
            "seed": "uint32 ()",
            "index": f"uint32 ({batch},)",
            "label": f"int32 ({batch},), -1 for no class",
        },
        "gives": f"uint8 ({batch}, {frames}, {config.autoencoder.height}, {config.autoencoder.width}, 3)",
        "platforms": list(platforms),
        "class_names": list(model.class_names),
        "sample": config_to_dict(settings),
        "jax": jax.__version__,
    }
    return exported.serialize(), signature
