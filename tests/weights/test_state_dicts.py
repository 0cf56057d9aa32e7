"""What state dicts may hold: tensors, prefixes, buffers, other float types."""

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

from pvdm_jax.config import UNetConfig
from pvdm_jax.models.triplane import PlaneShape
from pvdm_jax.models.unet import UNet
from pvdm_jax.weights import official

SPEC = PlaneShape(4, 4, 4).latent_spec(4)


class Tensor:
    """As much of a PyTorch tensor as the converter uses: one that requires a gradient and lies on an accelerator."""

    def __init__(self, array, device="cuda", grad=True, half=False):
        self.array, self.device, self.grad, self.half = array, device, grad, half
        self.shape = array.shape

    def detach(self):
        return Tensor(self.array, self.device, False, self.half)

    def cpu(self):
        return Tensor(self.array, "cpu", self.grad, self.half)

    def float(self):
        return Tensor(self.array.astype(np.float32), self.device, self.grad)

    def is_floating_point(self):
        return self.array.dtype.kind == "f"

    def __array__(self, dtype=None, copy=None):
        if self.grad or self.device != "cpu" or self.half:
            raise TypeError("can't convert this tensor to NumPy")
        return self.array


@pytest.fixture(scope="module")
def weights(reference, recipe):
    info, _ = reference("unet_uncond_tiny")
    return recipe.weights(info["weights"], info["seed"])


def same(found, weights, exact=True):
    written = official.to_torch(found)
    for name, array in weights.items():
        np.testing.assert_allclose(written[name], array, rtol=0 if exact else 1e-2, atol=0 if exact else 1e-3)


@pytest.mark.parametrize(
    "prefix", ["module.", "diffusion_model.", "module.diffusion_model.", "diffusion_model.module.", "_orig_mod."]
)
def test_prefixes(weights, prefix):
    same(official.unet_from_torch({prefix + name: array for name, array in weights.items()}), weights)


def test_a_name_twice(weights):
    name = "out.0.bias"
    with pytest.raises(ValueError, match="out.0.bias occurs twice, once as module.out.0.bias"):
        official.unet_from_torch(weights | {f"module.{name}": weights[name]})


def test_kinds_of_arrays(weights):
    same(official.unet_from_torch({name: jnp.asarray(array) for name, array in weights.items()}), weights)
    same(official.unet_from_torch({name: array.astype(np.float64) for name, array in weights.items()}), weights)
    same(official.unet_from_torch({name: Tensor(array) for name, array in weights.items()}), weights)
    same(official.unet_from_torch({name: Tensor(array, half=True) for name, array in weights.items()}), weights)
    for dtype in (np.float16, ml_dtypes.bfloat16):
        found = official.unet_from_torch({name: array.astype(dtype) for name, array in weights.items()})
        same(found, weights, exact=False)


def test_torch_tensors():
    torch = pytest.importorskip("torch", reason="the converters take its tensors, but don't need it")
    config = UNetConfig(model_channels=32, channel_mult=(1,), num_res_blocks=1)
    weights = official.to_torch(UNet(config, SPEC, rngs=nnx.Rngs(0)))
    tensors = {name: torch.nn.Parameter(torch.from_numpy(np.array(array))) for name, array in weights.items()}
    same(official.unet_from_torch(tensors), weights)
    halves = {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}
    same(official.unet_from_torch(halves), weights, exact=False)


def test_buffers_are_passed_over(weights):
    buffers = {"zeros": np.zeros((1, 4, 2048)), "encoder.frame_rot_emb.inv_freqs": None, "x.num_batches_tracked": 3}
    same(official.unet_from_torch(weights | buffers), weights)


def test_whole_checkpoints_are_named(weights):
    with pytest.raises(ValueError, match="optimizer is a dict, not an array"):
        official.unet_from_torch(weights | {"optimizer": {"lr": 1}})
    same(official.unet_from_torch({f"state_dict.{name}": array for name, array in weights.items()}), weights)


def test_overrides(weights):
    config = official.unet_from_torch(weights, num_heads=4, dtype=jnp.bfloat16).config
    assert (config.num_heads, config.dtype) == (4, "bfloat16")
    with pytest.raises(TypeError, match="heads"):
        official.unet_from_torch(weights, heads=4)
    with pytest.raises(ValueError, match="is missing|is needed"):
        official.unet_from_torch(weights, num_res_blocks=3)


def test_the_wrong_model_is_named(reference, recipe, weights):
    with pytest.raises(ValueError, match="to_pixel.1.weight is missing, from which sizes are inferred"):
        official.autoencoder_from_torch(weights)


@pytest.mark.parametrize("name", ["position_embedding", "edge_features", "shared_axes", "axis_mixing"])
def test_a_model_that_the_official_code_has_no_place_for(name):
    config = UNetConfig(model_channels=32, channel_mult=(1,), num_res_blocks=1, **{name: True})
    with pytest.raises(ValueError, match=f"denoiser.{name} is True"):
        official.to_torch(UNet(config, SPEC, rngs=nnx.Rngs(0)))
