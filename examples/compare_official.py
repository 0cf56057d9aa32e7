"""Times the official PyTorch code and this package on the same machine, with the same weights and inputs.

    python examples/compare_official.py --official=DIR [--compile] [--only encode decode ...] [--repeats=3]
    python examples/compare_official.py --official=DIR --compile --dtype=bfloat16    # on a GPU

DIR is a copy of github.com/sihyun-yu/PVDM at commit 793172f. PyTorch and JAX are both needed; each uses a GPU if it
finds one. The two sides run in separate processes, one after the other, at the paper's sizes, with one clip per call
(or --batch-size). The results of the forward passes are compared. Prints a table of medians and ratios.

The official code runs as it is: in float32, except for its training steps on a GPU, which use float16 autocast with a
GradScaler. `--compile` times it under torch.compile as well. --dtype applies to this code and to the compiled official
code, for which bfloat16 means autocast.

The official autoencoder's training step needs more than 24 GB at 256 x 256, so it is timed on clips of 160 x 160. The
time of a 100-step DDIM run is taken as 25 times that of 4 steps.
"""

import argparse
import contextlib
import gc
import importlib.util
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

REFERENCE = pathlib.Path(__file__).parent.parent / "tests" / "reference"
OPERATIONS = ("encode", "decode", "autoencoder_train", "denoiser", "denoiser_train", "ddim100")
TRAIN_SIZE, DDIM_STEPS = 160, 4


def load(name: str):
    """Imports a module of the reference folder."""
    sys.path.insert(0, str(REFERENCE))
    spec = importlib.util.spec_from_file_location(name, REFERENCE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def weights(name: str) -> dict[str, np.ndarray]:
    """The reference weights of the paper's autoencoder or denoiser, under their official names."""
    info = json.loads((REFERENCE / f"{name}_paper.json").read_text())
    return load("recipe").weights(info["weights"], info["seed"])


def inputs(batch: int) -> dict[str, np.ndarray]:
    """Inputs for `batch` clips: videos in two sizes, and latents."""
    recipe = load("recipe")
    video, small = (recipe.video(16, size, size, seed=5, batch=batch).astype(np.float32) for size in (256, TRAIN_SIZE))
    x, cond, noise = (recipe.noise((batch, 4, 2048), 5, name) for name in ("x", "cond", "noise"))
    return {"video": video, "small": small, "x": x, "cond": np.tanh(cond), "noise": noise}


def timed(function, wait, repeats: int) -> dict:
    """Times calls of a function. `wait(result)` returns once the result is ready. The first call is timed separately.

    Returns "first" (seconds), "seconds" (of each further call) and "result".
    """
    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        result = function()
        wait(result)
        seconds.append(time.perf_counter() - began)
    return {"first": seconds[0], "seconds": seconds[1:], "result": result}


def official(folder: pathlib.Path, only: list[str], *, repeats: int, batch: int, compiled: bool, dtype: str):
    """Yields (operation, timing) for the official code."""
    import torch

    gpu = torch.cuda.is_available()
    device, to_gpu = torch.device("cuda" if gpu else "cpu"), torch.Tensor.cuda
    load("make_official").prepare(folder)
    if gpu:
        torch.Tensor.cuda = to_gpu  # `prepare` replaces it
    from models.autoencoder.autoencoder_vit import ViTAutoencoder
    from models.ddpm.unet import UNetModel

    given = {name: torch.from_numpy(array).to(device) for name, array in inputs(batch).items()}
    videos = {name: given[name].permute(0, 4, 1, 2, 3).contiguous() for name in ("video", "small")}
    wrap = torch.compile if compiled else (lambda function: function)

    def autocast(training: bool):
        if compiled and dtype == "bfloat16":
            return torch.autocast(device.type, torch.bfloat16)
        if not compiled and training and gpu:
            return torch.autocast("cuda", torch.float16)
        return contextlib.nullcontext()

    scaler = torch.amp.GradScaler(device.type, enabled=gpu and not compiled)

    def time_calls(function, repeats):
        if gpu:
            torch.cuda.reset_peak_memory_stats()
        found = timed(function, lambda _: torch.cuda.synchronize() if gpu else None, repeats)
        found["result"] = found["result"].detach().float().cpu().numpy()
        return found | {"memory": torch.cuda.max_memory_allocated() if gpu else None}

    def autoencoder(size):
        return ViTAutoencoder(4, dict(channels=384, resolution=size, timesteps=16, splits=1)).to(device)

    def fill(model, name):
        loaded = {key: torch.from_numpy(array) for key, array in weights(name).items()}
        model.load_state_dict(loaded, strict=False)
        return model.to(device)

    def train(model, loss):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

        def step():
            optimizer.zero_grad()
            with autocast(training=True):
                value = loss()
            scaler.scale(value).backward()
            scaler.step(optimizer)
            scaler.update()
            return value

        return step

    if {"encode", "decode"} & set(only):
        model = fill(autoencoder(256), "autoencoder").eval()
        with torch.no_grad(), autocast(training=False):
            for name, call, argument in (
                ("encode", model.extract, videos["video"]),
                ("decode", model.decode_from_sample, given["cond"]),
            ):
                if name in only:
                    call = wrap(call)
                    yield name, time_calls(lambda: call(argument), repeats)  # noqa: B023
        del model
    if "autoencoder_train" in only:
        model = autoencoder(TRAIN_SIZE).train()
        call = wrap(model)

        def loss():
            found = call(videos["small"])[0]
            return 4 * (found.reshape(batch, 16, 3, *found.shape[2:]).transpose(1, 2) - videos["small"]).abs().mean()

        yield "autoencoder_train", time_calls(train(model, loss), max(1, repeats - 1))
        del model, call, loss
    gc.collect()
    if not {"denoiser", "denoiser_train", "ddim100"} & set(only):
        return
    config = json.loads((REFERENCE / "unet_paper.json").read_text())["config"]
    names = ("model_channels", "channel_mult", "num_res_blocks", "attention_resolutions", "num_heads")
    options = {name: config[name] for name in (*names, "use_scale_shift_norm", "resblock_updown", "cond_model")}
    model = fill(UNetModel(image_size=32, in_channels=4, out_channels=4, **options), "unet").eval()
    call, step = wrap(model), torch.full((batch,), 500, device=device)
    with torch.no_grad(), autocast(training=False):
        if "denoiser" in only:
            yield "denoiser", time_calls(lambda: call(given["x"], given["cond"], step), repeats)
        if "ddim100" in only:
            from losses.ddpm import DDPM

            process = DDPM(call, channels=4, sampling_timesteps=DDIM_STEPS, w=0.0)
            yield "ddim100", time_calls(lambda: process.sample(batch, given["cond"]), 1)
    if "denoiser_train" in only:
        model.train()

        def loss():
            return torch.square(call(given["x"], given["cond"], step) - given["noise"]).mean()

        yield "denoiser_train", time_calls(train(model, loss), max(1, repeats - 1))


def ours(only: list[str], *, repeats: int, batch: int, dtype: str):
    """Yields (operation, timing) of this package."""
    from pvdm_jax.runtime.allocator import keep_memory

    keep_memory()
    import dataclasses
    import functools

    import jax
    import jax.numpy as jnp

    from pvdm_jax.config import (
        AutoencoderConfig,
        AutoencoderTrainingConfig,
        Config,
        MeshConfig,
        OptimizerConfig,
        UNetConfig,
    )
    from pvdm_jax.data.latent_batch import LatentBatch
    from pvdm_jax.diffusion.guidance import guide
    from pvdm_jax.diffusion.process import Process
    from pvdm_jax.diffusion.sampling import sample_clip
    from pvdm_jax.inference.latent_model import LatentModel
    from pvdm_jax.models import functional
    from pvdm_jax.models.condition import Neighbour
    from pvdm_jax.runtime import sharding
    from pvdm_jax.training.autoencoder import AutoencoderStage
    from pvdm_jax.training.diffusion import DiffusionStage
    from pvdm_jax.weights import official

    given = {name: jnp.asarray(array) for name, array in inputs(batch).items()}
    packed = {name: jnp.swapaxes(given[name], 1, 2) for name in ("x", "cond", "noise")}
    mesh = sharding.make_mesh(MeshConfig())

    def time_calls(function, repeats, as_theirs=lambda array: array):
        found = timed(function, jax.block_until_ready, repeats)
        found["result"] = as_theirs(np.asarray(found["result"], np.float32))
        # The peak memory of this process so far, in this operation or in an earlier one.
        return found | {"memory": (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")}

    def channels_first(array):
        return np.swapaxes(array, 1, 2)

    def frames_first(video):
        return np.moveaxis(video, -1, 2).reshape(-1, 3, *video.shape[2:4])

    def train(stage, batch):
        state = [jax.jit(stage.init)(jax.random.key(0))]
        (update,) = stage.steps.values()
        step = jax.jit(lambda state, batch: update(state, batch, jax.random.key(1), stage.constants), donate_argnums=0)
        step = step.lower(state[0], batch).compile()

        def call():
            state[0], metrics = step(state[0], batch)
            return metrics["loss"]

        return call

    if {"encode", "decode"} & set(only):
        graphdef, params = functional.split(official.autoencoder_from_torch(weights("autoencoder"), dtype=dtype))
        encode = jax.jit(lambda params, video: functional.merge(graphdef, params).encode(video))
        decode = jax.jit(lambda params, latents: functional.merge(graphdef, params).decode(latents))
        if "encode" in only:
            yield "encode", time_calls(lambda: encode(params, given["video"]), repeats, channels_first)
        if "decode" in only:
            yield "decode", time_calls(lambda: decode(params, packed["cond"]), repeats, frames_first)
        del params
    if "autoencoder_train" in only:
        model = AutoencoderConfig(height=TRAIN_SIZE, width=TRAIN_SIZE, dtype=dtype)
        settings = AutoencoderTrainingConfig(optimizer=OptimizerConfig(b2=0.999))
        stage = AutoencoderStage(model, settings, {"video": np.zeros((0, 16, TRAIN_SIZE, TRAIN_SIZE, 3))}, mesh)
        yield "autoencoder_train", time_calls(train(stage, {"video": given["small"]}), max(1, repeats - 1))
    gc.collect()
    if not {"denoiser", "denoiser_train", "ddim100"} & set(only):
        return
    config = Config(autoencoder=AutoencoderConfig(dtype=dtype), denoiser=UNetConfig(dtype=dtype))
    model = LatentModel(config.autoencoder, config.denoiser)
    _, params = functional.split(official.unet_from_torch(weights("unet")))
    given = Neighbour(packed["cond"], jnp.ones(batch, bool))
    condition = dataclasses.replace(model.absent(batch), previous=given)
    if "denoiser" in only:
        call, time = jax.jit(model.denoise), jnp.full((batch,), 500)
        yield "denoiser", time_calls(lambda: call(params, packed["x"], time, condition), repeats, channels_first)
    if "ddim100" in only:
        process, keys = Process(config.process), jax.random.split(jax.random.key(0), batch)

        @jax.jit
        def sample(params, condition, keys):
            predict = guide(functools.partial(model.denoise, params), condition)
            return sample_clip(predict, process, keys, model.spec.shape, sampler="ddim", steps=DDIM_STEPS, eta=1.0)

        yield "ddim100", time_calls(lambda: sample(params, condition, keys), 1)
    if "denoiser_train" in only:
        del params
        gc.collect()
        stage = DiffusionStage(config, mesh)
        clips = LatentBatch(
            clip=packed["x"],
            previous=packed["cond"],
            has_previous=jnp.ones(batch, bool),
            label=jnp.zeros(batch, jnp.int32),
        )
        yield "denoiser_train", time_calls(train(stage, clips), max(1, repeats - 1))


def run_side(args: argparse.Namespace) -> None:
    """Runs one side's operations, and writes their times as JSON and their results as npy files."""
    args.results.mkdir(parents=True, exist_ok=True)
    options = {"repeats": args.repeats, "batch": args.batch_size, "dtype": args.dtype}
    if args.side == "ours":
        results = ours(args.only, **options)
    else:
        results = official(args.official, args.only, compiled=args.side == "compiled", **options)
    for name, found in results:
        result, scale = found.pop("result"), 100 / DDIM_STEPS if name == "ddim100" else 1
        found |= {"median": scale * statistics.median(found["seconds"]), "scale": scale}
        np.save(args.results / f"{args.side}_{name}.npy", result)
        (args.results / f"{args.side}_{name}.json").write_text(json.dumps(found))
        print(f"{args.side:9} {name:18} {found['median']:9.4f} s (first call {found['first']:.1f} s)", flush=True)


def print_table(folder: pathlib.Path, only: list[str], sides: list[str]) -> None:
    """Prints the medians of all sides with results in `folder`, and how far our results are from the official ones."""
    print("\n| operation | " + " | ".join(f"{side}, s" for side in sides) + " | ours / official | difference |")
    print("|---|" + "---|" * (len(sides) + 2))
    for name in only:
        found = {}
        for side in sides:
            path = folder / f"{side}_{name}.json"
            found[side] = json.loads(path.read_text())["median"] if path.exists() else float("nan")
        error = "-"
        results = [folder / f"{side}_{name}.npy" for side in ("official", "ours")]
        if name in ("encode", "decode", "denoiser") and all(path.exists() for path in results):
            theirs, mine = map(np.load, results)
            error = f"{np.linalg.norm(mine - theirs) / np.linalg.norm(theirs):.1e}"
        times = " | ".join(f"{found[side]:.3g}" for side in sides)
        print(f"| {name} | {times} | {found['ours'] / found['official']:.2f} | {error} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=pathlib.Path, required=True)
    parser.add_argument("--only", nargs="+", choices=OPERATIONS, default=list(OPERATIONS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--results", type=pathlib.Path, help="folder for the numbers (default: a temporary one)")
    # A part of the comparison: a single side, or the table of all results.
    parser.add_argument("--side", choices=("official", "compiled", "ours", "table"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    sides = ["official", "compiled", "ours"] if args.compile else ["official", "ours"]
    if args.side == "table":
        print_table(args.results, args.only, sides)
        return
    args.results = args.results or pathlib.Path(tempfile.mkdtemp())
    if args.side:
        run_side(args)
        return
    for side in sides:
        options = [f"--side={side}", f"--official={args.official}", f"--results={args.results}"]
        options += [f"--repeats={args.repeats}", f"--batch-size={args.batch_size}", f"--dtype={args.dtype}"]
        done = subprocess.run([sys.executable, __file__, *options, "--only", *args.only])
        if done.returncode and side != "compiled":
            raise SystemExit(f"{side} ended with {done.returncode}")
    print_table(args.results, args.only, sides)


if __name__ == "__main__":
    main()
