"""The benchmark: its formulas against the official counts and the traced models, its reading of compiled programs, and
that it runs on a bare machine."""

import dataclasses
import json
import os
import subprocess
import sys
import textwrap
import xml.etree.ElementTree as xml

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pvdm_jax.config import AutoencoderConfig, ConfigError, UNetConfig
from pvdm_jax.config.loading import load_settings
from pvdm_jax.models import functional
from pvdm_jax.models.autoencoder import Autoencoder, plane_shape
from pvdm_jax.models.triplane import PlaneShape, unpack
from pvdm_jax.models.unet import UNet
from pvdm_jax.performance.formulas import TRAINING, autoencoder_flops, decode_flops, denoiser_flops, encode_flops
from pvdm_jax.performance.hlo import Program, traced_flops
from pvdm_jax.performance.operations import SIZES, Operations
from pvdm_jax.performance.profile import profile, profile_table, shares
from pvdm_jax.performance.roofline import roofline_svg
from pvdm_jax.performance.runner import run
from pvdm_jax.performance.scaling import AXES, measure_scaling, scaling_table
from pvdm_jax.performance.timing import Timing, time_calls

pytestmark = pytest.mark.long

GIGA = 1e9
# Nothing of these is on a machine that has only jax, flax, optax, orbax, einops and numpy.
MISSING = "tensorflow tensorflow_datasets grain array_record clu ml_collections av PIL tensorboardX tqdm".split()


def test_formulas_agree_with_the_official_counts():
    """Measured on the official code with PyTorch's counter, in GFLOP a clip."""
    clip = AutoencoderConfig()
    assert encode_flops(clip, whole=True) / GIGA == pytest.approx(1444, abs=0.5)
    assert decode_flops(clip) / GIGA == pytest.approx(1158, abs=0.5)
    assert encode_flops(clip) < encode_flops(clip, whole=True)
    for width, expected in ((256, 243), (128, 72)):
        assert denoiser_flops(UNetConfig(model_channels=width), plane_shape(clip)) / GIGA == pytest.approx(
            expected, abs=0.5
        )


def traced(make, call, *arguments):
    graphdef, params = functional.abstract(make)
    return traced_flops(jax.make_jaxpr(lambda p, *a: call(functional.merge(graphdef, p), *a))(params, *arguments))


def test_formulas_count_what_the_autoencoder_does():
    config = AutoencoderConfig(
        **dict(frames=4, height=16, width=32, patch_size=4, channels=24, latent_channels=3, depth=3, num_heads=2),
        **dict(head_dim=8, mlp_ratio=3, plane_depth=2, plane_num_heads=3, plane_head_dim=4, plane_mlp_dim=20),
    )
    shape = plane_shape(config)
    video = jnp.zeros((2, 4, 16, 32, 3))
    planes = unpack(jnp.zeros((2, shape.positions, 3)), shape)

    def make():
        return Autoencoder(config, rngs=nnx.Rngs(0))

    assert traced(make, lambda model, x: model.encode(x), video) == 2 * encode_flops(config)
    assert traced(make, lambda model, x: model.decode(x), planes) == 2 * decode_flops(config)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        dict(resblock_updown=False, use_scale_shift_norm=False, position_embedding=True, previous_clip=False),
        dict(resblock_updown=False, conv_resample=False, next_clip=True, attention_resolutions=(2,)),
    ],
)
def test_formulas_count_what_the_denoiser_does(fields):
    config = UNetConfig(model_channels=32, channel_mult=(1, 3, 2), num_res_blocks=2, num_heads=4, **fields)
    shape, step = PlaneShape(4, 8, 12), jnp.zeros(2, jnp.int32)
    x = unpack(jnp.zeros((2, shape.positions, 4)), shape)
    found = traced(lambda: UNet(config, rngs=nnx.Rngs(0)), lambda model, x: model(x, step), x)
    embedding = 2 * 27 * 32 * shape.positions if config.position_embedding else 0  # for the whole batch
    assert found == 2 * denoiser_flops(config, shape) + embedding


def test_sizes_are_those_of_the_configurations():
    for name, spec in (("demo", "demo"), ("s", "ucf101:s-official"), ("l", "ucf101:l-official")):
        config = load_settings(spec)
        assert SIZES[name] == (config.autoencoder, config.denoiser)


def test_flops_of_loops_and_gradients():
    weights, x = jnp.zeros((5, 16, 16)), jnp.zeros((8, 16))

    def loss(weights, remat):
        def body(x, w):
            return jnp.tanh(x @ w), None

        return jnp.sum(jax.lax.scan(jax.checkpoint(body) if remat else body, x, weights)[0])

    one = 2 * 8 * 16 * 16
    assert traced_flops(jax.make_jaxpr(loss, static_argnums=1)(weights, False)) == 5 * one
    gradient = jax.make_jaxpr(jax.grad(loss), static_argnums=1)
    # Forward, both gradients (the first input has none to get, but the loop is uniform), and forward again.
    assert traced_flops(gradient(weights, False)) == 3 * 5 * one
    assert traced_flops(gradient(weights, True)) == 4 * 5 * one


def test_memory_traffic_of_a_compiled_program():
    """Loops count as often as they run, and a slice of a stacked array by its own size."""
    weights, x = jnp.zeros((6, 256, 256)), jnp.zeros((128, 256))
    once = jax.jit(lambda w, x: x @ w[0]).lower(weights[:1], x).compile()
    expected = 4 * (256 * 256 + 2 * 128 * 256)
    assert Program(once.as_text()).memory_bytes() == pytest.approx(expected, rel=0.01)
    loop = jax.jit(lambda w, x: jax.lax.scan(lambda x, w: (x @ w, None), x, w)[0]).lower(weights, x).compile()
    program = Program(loop.as_text())
    assert max(program.runs().values()) == 6
    # The product's traffic, and at most a copy of the slice and of the carry.
    assert 6 * expected < program.memory_bytes() < 6 * (expected + 4 * 2 * (256 * 256 + 2 * 128 * 256))


HLO = """HloModule step, num_partitions=8

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%condition (p.1: (s32[], f32[64,8])) -> pred[] {
  %p.1 = (s32[], f32[64,8]{1,0:T(8,128)}) parameter(0)
  %i = s32[] get-tuple-element(%p.1), index=0
  %n = s32[]{:T(128)} constant(12)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%all-reduce-scatter.1 (input: f32[64,8]) -> f32[16,8] {
  %input = f32[64,8]{1,0} parameter(0)
  %all-reduce.3 = f32[64,8]{1,0} all-reduce(%input), channel_id=4, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  ROOT %slice = f32[16,8]{1,0} slice(%all-reduce.3), slice={[0:16], [0:8]}
}

%body (p.2: (s32[], f32[64,8])) -> (s32[], f32[64,8]) {
  %p.2 = (s32[], f32[64,8]{1,0:T(8,128)}) parameter(0)
  %x.1 = f32[64,8]{1,0} get-tuple-element(%p.2), index=1
  %gathered = bf16[128,8]{1,0:T(8,128)(2,1)S(1)} all-gather(%x.1), channel_id=1, replica_groups=[2,4]<=[8]
  %copy = bf16[128,8]{1,0} all-gather(%x.1), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}
  %scattered = f32[16,8]{1,0} fusion(%x.1), kind=kCustom, calls=%all-reduce-scatter.1
  ROOT %out = (s32[], f32[64,8]{1,0:T(8,128)}) tuple(%p.2, %x.1)
}

ENTRY %main (a: f32[64,8]) -> f32[64,8] {
  %a = f32[64,8]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %start = (s32[], f32[64,8]{1,0:T(8,128)}) tuple(%zero, %a)
  %loop = (s32[], f32[64,8]{1,0:T(8,128)}, /*index=2*/f32[]) while(%start), condition=%condition, body=%body
  %b = f32[64,8]{1,0} get-tuple-element(%loop), index=1
  %c = f32[64,8]{1,0} all-reduce(%b), channel_id=7, replica_groups=mesh['data'=2,'fsdp'=4] {'data','fsdp'}
  %alone = f32[64,8]{1,0} all-reduce(%c), channel_id=9, replica_groups={{0},{1}}, to_apply=%add
  ROOT %d = f32[64,8]{1,0} collective-permute(%c), channel_id=8, source_target_pairs={{0,1},{1,0}}
}
"""


def test_collectives_of_a_compiled_program():
    program = Program(HLO)
    assert program.runs() == {"main": 1, "body": 12}
    found = {(transfer.kind, transfer.devices): (transfer.runs, transfer.bytes) for transfer in program.collectives()}
    whole = 64 * 8 * 4
    assert found == {
        ("all-gather", 4): (12, 128 * 8 * 2 * 3 / 4),  # once, though it is written twice
        ("reduce-scatter", 4): (12, whole * 3 / 4),
        ("all-reduce", 8): (1, 2 * whole * 7 / 8),
        ("collective-permute", 2): (1, whole),
    }


def test_timing():
    assert Timing((1.0, 2.0, 3.0, 4.0, 100.0)).median == 3.0
    assert Timing((2.0, 3.0)).spread == pytest.approx(1 / 2.5)
    assert Timing((2.0,)).spread == 0
    calls = []
    assert len(time_calls(lambda: calls.append(1), repeats=5, limit=60).seconds) == 5
    assert len(calls) == 6  # one warms up
    assert len(time_calls(lambda: None, repeats=5, limit=0.0).seconds) == 1


def test_roofline_is_a_picture_with_every_point():
    text = roofline_svg("a <device>", 1e12, 1e11, [("encode & co", 50.0, 8e11), ("tiny", 0.01, 1e6)])
    root = xml.fromstring(text)
    words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "a <device>" in words and "encode & co: 80% of the roof" in words
    circles = list(root.iter("{http://www.w3.org/2000/svg}circle"))
    assert len(circles) == 4
    for circle in circles:
        assert 0 < float(circle.get("cx")) < 760 and 0 < float(circle.get("cy")) < 460


def test_scaling_fits_the_exponent():
    """With times that grow as tokens to the power 1.5."""

    def measure(operations: Operations, name: str) -> float:
        frames, height, width = operations.shape
        stage1 = name == "autoencoder_train"
        return (operations.batch * (frames * height * width if stage1 else operations.shape.positions)) ** 1.5

    found = {(row.operation, row.axis): row for row in measure_scaling(measure, "float32", None)}
    assert set(found) == {(name, axis) for name in ("autoencoder_train", "denoiser_train") for axis in AXES}
    for name in ("autoencoder_train", "denoiser_train"):
        assert found[name, "batch"].exponent == pytest.approx(1.5)
    assert found["autoencoder_train", "frames"].exponent == pytest.approx(1.5)
    assert found["autoencoder_train", "resolution"].exponent == pytest.approx(3.0)
    # The planes' positions grow more slowly than the volume.
    assert found["denoiser_train", "frames"].exponent < 1.5
    assert found["denoiser_train", "resolution"].exponent < 3.0
    assert "denoiser_train" in scaling_table(list(found.values()))


def test_run_writes_table_numbers_and_picture(tmp_path, capsys):
    results = run(only=["decode", "encode"], batch_size=1, repeats=2, limit=30, output=tmp_path)
    shown = capsys.readouterr().out
    assert "| decode | demo | 1 |" in shown and "matrix product" in shown
    written = json.loads((tmp_path / "benchmark.json").read_text())
    assert [result["operation"] for result in written["results"]] == ["decode", "encode"]
    for result in results:
        clip = SIZES["demo"][0]
        expected = {"decode": decode_flops, "encode": encode_flops}[result.operation](clip)
        assert result.flops == result.program_flops == expected
        assert result.median > 0 and 0 < result.of_peak and result.memory > 0 and result.traffic > 0
        assert result.of_peak == pytest.approx(expected / result.median / written["peaks"]["float32"]["flops"])
    assert written["machine"]["jax"] == jax.__version__
    xml.parse(tmp_path / "roofline_float32.svg")
    assert (tmp_path / "benchmark.txt").read_text().count("\n") == shown.count("\n")
    assert jax.config.jax_enable_compilation_cache


def test_clips_of_another_resolution_and_policy():
    (result,) = run(only=["autoencoder_train"], batch_size=1, repeats=1, resolution=16, remat="blocks")
    clip = dataclasses.replace(SIZES["demo"][0], height=16, width=16)
    assert (result.resolution, result.remat) == (16, "blocks")
    assert result.flops == TRAINING * autoencoder_flops(clip)
    assert result.program_flops > 1.2 * result.flops  # the second forward pass


def test_what_takes_too_long_is_left_out():
    (result,) = run(sizes=["l"], only=["autoencoder_train"], limit=0.01)
    assert result.median is None and "more than the limit" in result.note


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(sizes=["xl"]), "--size is 'xl'; demo, s, l"),
        (dict(dtypes=["float16"]), "--dtype is 'float16'; float32, bfloat16"),
        (dict(only=["walk"]), "--only is 'walk'; encode"),
        (dict(resolution=33), "autoencoder.height is 33"),
        (dict(sizes=["l"], resolution=160), "autoencoder.height is 160; it must be a multiple of 64"),
        (dict(remat="all"), "autoencoder.remat is 'all'; none, dots, blocks"),
    ],
)
def test_unknown_names_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        run(**options)


@pytest.mark.slow
def test_every_operation_runs():
    autoencoder, unet = (dataclasses.replace(config) for config in SIZES["demo"])
    results = run(batch_size=1, repeats=1, steps=2)
    assert all(result.median for result in results)
    for result in results:
        if result.operation in ("denoiser", "sample"):
            assert result.program_flops == pytest.approx(result.flops, rel=0.01)  # and the position embedding
        if result.operation.endswith("_train"):
            # The first layer's inputs need no gradient; attention's weights may be computed again.
            assert 0.9 * result.flops < result.program_flops < 1.2 * result.flops
    assert denoiser.model_channels == 64 and autoencoder.channels == 64


def test_runs_on_a_bare_machine(tmp_path):
    """Nothing but jax, flax, optax, orbax, einops and numpy."""
    program = f"""
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {MISSING!r}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)

sys.meta_path.insert(0, Block())
from pvdm_jax.cli import main
sys.exit(main(["benchmark", "--only=denoiser,data", "--batch-size=1", "--repeats=1", "--output={tmp_path}"]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "benchmark.json").read_text())["results"]
    assert [result["operation"] for result in results] == ["denoiser", "data"]
    assert results[0]["median"] > 0 and np.isfinite(results[0]["of_peak"])
    assert "is not installed" in results[1]["note"]


def test_profile_adds_up_what_instructions_of_a_kind_take():
    text = """
    ENTRY %main (a: f32[8,8], b: f32[8,8]) -> f32[8] {
      %dot.1 = f32[8,8]{1,0} dot(%a, %b), metadata={op_name="jit(f)/jvp()/dot_general"}
      %fusion.2 = f32[8]{0} fusion(%dot.1), kind=kLoop, metadata={op_name="jit(f)/jvp()/logistic"}
      %dot.3 = f32[8,8]{1,0} dot(%a, %b), metadata={op_name="jit(f)/transpose(jvp())/dot_general"}
      %while.4 = (f32[8]{0}) while(%t), condition=%c, body=%d, metadata={op_name="jit(f)/jvp()/while"}
      ROOT %copy.5 = f32[8]{0} copy(%fusion.2)
    }"""
    text = textwrap.dedent(text)
    events = [("dot.1", 2.0), ("dot.1", 1.0), ("fusion.2", 0.5), ("dot.3", 4.0), ("while.4", 9.0), ("copy.5", 0.001)]
    found = shares([*events, ("of another program", 7.0)], Program(text))
    assert [(each.part, each.kind, each.seconds, each.count) for each in found] == [
        ("backward", "matrix products", 4.0, 1),
        ("forward", "matrix products", 3.0, 2),
        ("forward", "elementwise", 0.5, 1),
        ("update", "moving data", 0.001, 1),
    ]
    assert profile_table(found).splitlines()[2] == "| backward | matrix products | 1 | 4 | 53% |"
    assert profile_table(found).splitlines()[-1] == "| | the rest | 1 | 0.001 | 0% |"


def test_profile_sees_the_passes_of_a_step():
    def step(w, x):
        gradient = jax.grad(lambda w: jnp.sum(jnp.tanh(x @ w) ** 2))(w)
        return w - 0.1 * gradient

    w, x = jnp.ones((256, 256)), jnp.ones((512, 256))
    compiled = jax.jit(step).lower(w, x).compile()
    found = profile(lambda: compiled(w, x), Program(compiled.as_text()))
    assert {(each.part, each.kind) for each in found} >= {
        ("forward", "matrix products"),
        ("backward", "matrix products"),
    }
    assert all(each.seconds > 0 and each.count > 0 for each in found)
