"""A run of the training loop with a toy stage, as a program of its own: tests kill it, resume it and count devices.

usage: python toy_stage.py DIRECTORY [--steps N] [--sleep SECONDS] [--devices N] [--fsdp N]
Prints "digest HEX" at the end: a hash over every bit of the final state.
"""

import argparse
import hashlib
import json
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from pvdm_jax.config import MeshConfig, OptimizerConfig, StageConfig
from pvdm_jax.runtime.distributed import start_distributed
from pvdm_jax.runtime.sharding import make_mesh
from pvdm_jax.training.loop import train
from pvdm_jax.training.optimizer import accumulate_gradients, init_state, make_optimizer, update
from pvdm_jax.training.policy import BestByMetric
from pvdm_jax.training.step import whole

WIDTH = 256  # 256 x 256 weights are large enough to be shared out over the fsdp axis


class ToyStage:
    """A small network that denoises random vectors: it uses its key, its batch, accumulation and the EMA."""

    name = "toy"
    constants = {}
    split = staticmethod(whole)  # its steps change the whole state

    def __init__(self, config):
        self.config = config
        self.steps = {"toy": self.step}
        self.optimizer = make_optimizer(config.optimizer, config.steps)

    def init(self, key):
        first, second = jax.random.split(key)
        params = {
            "encoder": {"kernel": 0.05 * jax.random.normal(first, (WIDTH, WIDTH)), "bias": jnp.zeros(WIDTH)},
            "decoder": {"kernel": 0.05 * jax.random.normal(second, (WIDTH, WIDTH))},
        }
        return init_state(params, self.optimizer)

    def loss(self, params, batch, key):
        noisy = batch["x"] + 0.1 * jax.random.normal(key, batch["x"].shape)
        hidden = jnp.tanh(noisy @ params["encoder"]["kernel"] + params["encoder"]["bias"][None])
        loss = jnp.mean((hidden @ params["decoder"]["kernel"] - batch["x"]) ** 2)
        return loss, {"loss": loss}

    def step(self, state, batch, key, constants):
        grads, metrics = accumulate_gradients(self.loss, state.params, batch, key, self.config.accumulate)
        return update(state, grads, self.optimizer, self.config.ema_decay, self.config.ema_every), metrics

    def evaluate(self, state, folder):
        if jax.process_index() == 0:
            (folder / "picture.txt").write_text("seen\n")
        return {"ema_norm": float(jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(state.ema))))}


def toy_config(**changes):
    values = {"steps": 40, "batch_size": 16, "accumulate": 2, "ema_every": 2, "log_every": 4, "eval_every": 10}
    values |= {"checkpoint_every": 5, "keep": 3, "optimizer": OptimizerConfig(learning_rate=1e-3, warmup_steps=5)}
    return StageConfig(**(values | changes))


def toy_batches(batch_size, sleep=0.0, before=lambda step: None, spoil_at=0):
    """Batch k is a function of k alone; each process gets its share.

    `before` is called with a step's number when its batch is asked for; the batch of step `spoil_at` holds a NaN.
    """

    def batches(start):
        share = batch_size // jax.process_count()
        for index in range(start, 10**9):
            before(index + 1)
            time.sleep(sleep)
            x = np.random.default_rng(index).standard_normal((batch_size, WIDTH), np.float32)
            if index + 1 == spoil_at:
                x[0, 0] = np.nan
            yield {"x": x[jax.process_index() * share :][:share]}

    return batches


def digest(state):
    """A hash over every bit of a state."""
    return hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(state))).hexdigest()


SETTINGS = {"model": {"width": WIDTH}, "train": {"steps": 40, "log_every": 4}, "seed": 7}


def run(directory, config, mesh=None, settings=SETTINGS, stage=ToyStage, policy=None, batches=None, **options):
    """The loop on the toy stage, returning its state. `options` are those of `toy_batches`."""
    return train(
        stage(config),
        policy or BestByMetric(lambda step: "toy"),
        batches or toy_batches(config.batch_size, **options),
        directory=pathlib.Path(directory),
        config=config,
        settings=settings,
        mesh=mesh or make_mesh(MeshConfig()),
        seed=7,
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--sleep", type=float, default=0.0)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--fsdp", type=int, default=1)
    flags = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", flags.devices)
    start_distributed()
    mesh = make_mesh(MeshConfig(fsdp=flags.fsdp))
    state = run(flags.directory, toy_config(steps=flags.steps), mesh=mesh, sleep=flags.sleep)
    norms = {name: float(jnp.sqrt(jnp.sum(x**2))) for name, x in state.params["encoder"].items()}
    print("norms", json.dumps(norms))
    if jax.process_count() == 1:
        print("digest", digest(state))


if __name__ == "__main__":
    sys.exit(main())
