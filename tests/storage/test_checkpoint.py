"""Checkpoints: what is saved can be restored, damaged ones are skipped, other settings are refused."""

import dataclasses
import logging
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from disk import file_limit
from tiny_config import CONFIG

from pvdm_jax.config import ConfigError, OptimizerConfig, config_to_dict
from pvdm_jax.storage.checkpoint import Checkpoints, read_part
from pvdm_jax.storage.files import CheckpointError
from pvdm_jax.storage.same_settings import check_settings
from pvdm_jax.training.optimizer import init_state, make_optimizer, update


def make_state(value):
    """A state whose EMA differs from its parameters; dict keys are digits where a model has lists."""
    optimizer = make_optimizer(OptimizerConfig(clip_norm=1.0), 10)
    params = {"blocks": {"0": {"kernel": jnp.full((4, 3), value)}, "1": {"kernel": jnp.full((2,), -value)}}}
    state = init_state(params, optimizer)
    return update(state, params, optimizer, ema_decay=0.5)


def abstract(tree):
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), tree)


@pytest.fixture
def saved(tmp_path):
    """Checkpoints of steps 2, 4 and 6."""
    with Checkpoints(tmp_path, keep=5) as checkpoints:
        for step in (2, 4, 6):
            checkpoints.save(step, make_state(float(step)), {"settings": {}, "window": [0.1 * step]})
    return tmp_path


def restore(directory, check=None):
    with Checkpoints(directory, keep=5) as checkpoints:
        return checkpoints.restore(abstract(make_state(0.0)), check)


def truncate(step: pathlib.Path):
    """Cuts the largest of the checkpoint's files in half."""
    largest = max((path for path in step.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def truncate_info(step: pathlib.Path):
    (step / "info" / "metadata").write_text('{"settings"')


def empty(step: pathlib.Path):
    shutil.rmtree(step)
    step.mkdir()


def test_state_and_info_come_back(saved):
    state, step, info = restore(saved)
    assert step == 6 and info == {"settings": {}, "window": [0.1 * 6]}
    expected = make_state(6.0)
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    for found, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)


def test_nothing_saved_is_none(tmp_path):
    assert restore(tmp_path) is None


def test_the_newest_are_kept(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 3, 4):
            checkpoints.save(step, make_state(1.0), {})
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["3", "4"]


def test_saved_state_may_be_donated_and_info_changed(tmp_path):
    state = jax.tree.map(lambda x: x + 0, make_state(3.0))
    kernel = np.asarray(state.params["blocks"]["0"]["kernel"]).copy()
    info = {"window": [1.5]}
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, state, info)
        info["window"].append(2.5)
        jax.jit(lambda tree: jax.tree.map(lambda x: x * 0, tree), donate_argnums=0)(state)
    state, _, info = restore(tmp_path)
    np.testing.assert_array_equal(state.params["blocks"]["0"]["kernel"], kernel)
    assert info == {"window": [1.5]}


@pytest.mark.parametrize("damage", [truncate, truncate_info, empty])
def test_damaged_newest_is_passed_over(saved, caplog, damage):
    damage(saved / "checkpoints" / "6")
    with caplog.at_level(logging.WARNING):
        state, step, _ = restore(saved)
    assert step == 4
    np.testing.assert_array_equal(
        state.params["blocks"]["1"]["kernel"], make_state(4.0).params["blocks"]["1"]["kernel"]
    )
    assert str(saved / "checkpoints" / "6") in caplog.text and "can't be read" in caplog.text
    # Its step can be saved again, and its damaged files are kept.
    with Checkpoints(saved, keep=5) as checkpoints:
        checkpoints.save(6, make_state(60.0), {"settings": {}, "window": []})
    assert restore(saved)[1:] == (6, {"settings": {}, "window": []})
    assert len(list((saved / "checkpoints").glob("unreadable_6_*"))) == 1


def test_only_damaged_ones_is_an_error_that_changes_nothing(saved):
    for step in (2, 4, 6):
        empty(saved / "checkpoints" / str(step))
    with pytest.raises(OSError, match=r"none of the checkpoints in .* can be read \(steps 6, 4, 2\)"):
        restore(saved)
    assert sorted(path.name for path in (saved / "checkpoints").iterdir()) == ["2", "4", "6"]


def test_check_sees_the_info_first_and_its_refusal_stands(saved):
    def check(info):
        raise ConfigError(f"refused {info['window']}")

    with pytest.raises(ConfigError, match="refused"):
        restore(saved, check)


def test_read_part_reads_the_ema_alone(saved):
    state = make_state(6.0)
    part = read_part(saved, "ema", jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state.ema))
    assert all(leaf.sharding.device_set == {jax.devices()[0]} for leaf in jax.tree.leaves(part))
    assert jax.tree.structure(part) == jax.tree.structure(state.ema)
    np.testing.assert_array_equal(part["blocks"]["0"]["kernel"], state.ema["blocks"]["0"]["kernel"])
    assert float(jnp.max(jnp.abs(part["blocks"]["0"]["kernel"] - state.params["blocks"]["0"]["kernel"]))) > 0


def test_read_part_of_a_state_of_another_class(tmp_path):
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Other:
        ema: dict
        discriminator: dict

    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, Other(ema={"w": jnp.arange(3.0)}, discriminator={"w": jnp.zeros(2)}), {})
    part = read_part(tmp_path, "ema", {"w": jax.ShapeDtypeStruct((3,), jnp.float32)})
    np.testing.assert_array_equal(part["w"], [0.0, 1.0, 2.0])


def test_read_part_passes_over_damage_and_changes_nothing(saved, caplog):
    empty(saved / "checkpoints" / "6")
    part = read_part(saved, "ema", abstract(make_state(0.0).ema))
    np.testing.assert_array_equal(part["blocks"]["1"]["kernel"], make_state(4.0).ema["blocks"]["1"]["kernel"])
    assert sorted(path.name for path in (saved / "checkpoints").iterdir()) == ["2", "4", "6"]


def test_read_part_names_what_is_missing(saved, tmp_path_factory, caplog):
    nowhere = tmp_path_factory.mktemp("nowhere")
    with pytest.raises(FileNotFoundError, match=str(nowhere)):
        read_part(nowhere, "ema", {})
    with pytest.raises(OSError, match="'teacher' can't be read"):
        read_part(saved, "teacher", {"w": jax.ShapeDtypeStruct((2,), jnp.float32)})
    assert "it holds no teacher.w" in caplog.text


def test_settings_that_differ_are_named():
    saved = {"model": {"channels": 64, "mult": [1, 2]}, "train": {"steps": 10, "ema_every": 1}, "old": 1}
    current = {"model": {"channels": 32, "mult": (1, 2)}, "train": {"steps": 20, "ema_every": 2}}
    with pytest.raises(ConfigError) as refusal:
        check_settings(saved, current, ["*.steps"])
    text = str(refusal.value)
    for part in ("model.channels is 32 (it was 64)", "train.ema_every is 2 (it was 1)", "old is 'absent' (it was 1)"):
        assert part in text
    assert "mult" not in text and "steps" not in text
    check_settings(saved, current, ["*.steps", "model.*", "*.ema_every", "old"])


def test_a_field_that_an_older_version_did_not_store_counts_as_its_default():
    current = config_to_dict(CONFIG)
    older = {name: dict(value) if isinstance(value, dict) else value for name, value in current.items()}
    older["denoiser"].pop("shared_axes")
    older["train_diffusion"].pop("best_metric")
    older.pop("latents")
    check_settings(older, current, ())
    changed = current | {"denoiser": current["denoiser"] | {"shared_axes": True}}
    with pytest.raises(ConfigError, match=r"started with: denoiser\.shared_axes is True \(it was False\);"):
        check_settings(older, changed, ())
    check_settings(current, current | {"encoded_by": "1"}, ())  # a fact, not a setting: nothing to compare it with


def test_every_so_many_steps_one_is_kept_for_good(tmp_path):
    with Checkpoints(tmp_path, keep=1, keep_every=4) as checkpoints:
        for step in range(1, 11):
            checkpoints.save(step, make_state(1.0), {}, needed=(3,) if step > 6 else ())
    kept = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {"4", "8", "10"}  # 3 was removed before anything needed it
    with Checkpoints(tmp_path, keep=1, keep_every=4) as checkpoints:
        assert checkpoints.restore_step(4, abstract(make_state(0.0))).step == 1


def test_what_the_newest_needs_is_kept(tmp_path):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        for step, needed in ((1, ()), (2, (1,)), (3, (1,)), (4, ())):
            checkpoints.save(step, make_state(1.0), {}, needed)
            checkpoints.wait()
            kept = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
            assert kept == sorted({step, *needed})


def test_a_disk_that_takes_no_more_leaves_the_last_checkpoint_intact(saved):
    """A limit on the size of files stands in for the full disk: writes fail in the same places."""
    with pytest.raises(CheckpointError, match=r"can't be written to .*the newest complete one is of step 6"):
        # With keep=1 the old ones go only once there is a new one.
        with file_limit(16), Checkpoints(saved, keep=1) as checkpoints:
            checkpoints.save(8, make_state(8.0), {"settings": {}, "window": []})
            checkpoints.wait()
    state, step, _ = restore(saved)
    assert step == 6
    np.testing.assert_array_equal(
        state.params["blocks"]["1"]["kernel"], make_state(6.0).params["blocks"]["1"]["kernel"]
    )


def test_a_checkpoint_goes_to_another_precision(saved):
    """Float32 arrays come back as bfloat16 where these are asked for, up to rounding."""
    wanted = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            x.shape, jnp.bfloat16 if x.dtype == jnp.float32 else x.dtype, sharding=x.sharding
        ),
        abstract(make_state(0.0)),
    )
    with Checkpoints(saved, keep=5) as checkpoints:
        state, _, _ = checkpoints.restore(wanted)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype(jnp.bfloat16)}
    for found, exact in zip(jax.tree.leaves(state.params), jax.tree.leaves(make_state(6.0).params), strict=True):
        np.testing.assert_array_equal(found, exact.astype(jnp.bfloat16))


def flip(path: pathlib.Path, bit: int):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(bytes(data))


def test_a_flipped_bit_anywhere_changes_no_number(tmp_path, caplog):
    """Arrays and record are what was saved, or the previous checkpoint is used."""
    noise = jnp.asarray(np.random.default_rng(0).standard_normal((40, 40)), jnp.float32)
    states = {step: {"ema": {"w": noise * step}, "network": {"w": noise + step}} for step in (1, 2)}
    with Checkpoints(tmp_path / "whole", keep=2) as checkpoints:
        for step, state in states.items():
            checkpoints.save(step, state, {"window": [{"loss": 0.25}], "settings": {"seed": step}})
    files = [path for path in sorted((tmp_path / "whole" / "checkpoints" / "2").rglob("*")) if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)  # the arrays
    record = next(path for path in files if path.parent.name == "info" and path.name == "metadata")
    rng, steps = np.random.default_rng(1), []
    for number, path in enumerate([largest] * 12 + [record] * 8 + files):
        copy = tmp_path / str(number)
        shutil.copytree(tmp_path / "whole", copy)
        if path.stat().st_size:
            flip(copy / path.relative_to(tmp_path / "whole"), int(rng.integers(8 * path.stat().st_size)))
        with Checkpoints(copy, keep=2) as checkpoints:
            state, step, info = checkpoints.restore(abstract(states[1]))
        jax.tree.map(np.testing.assert_array_equal, state, states[step])
        assert info == {"window": [{"loss": 0.25}], "settings": {"seed": step}}
        steps.append(step)
    assert steps[:12] == [1] * 12 and steps[12:20] == [1] * 8
    assert "is not what was saved: its fingerprint differs" in caplog.text


def test_a_part_with_a_flipped_bit_is_not_read(saved, caplog):
    files = [path for path in (saved / "checkpoints" / "6").rglob("d/*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    expected = make_state(4.0).ema
    for bit in range(0, 8 * largest.stat().st_size, 8 * 37 + 3):
        flip(largest, bit)
        part = read_part(saved, "ema", abstract(expected))
        found = float(part["blocks"]["0"]["kernel"][0, 0])
        assert found in (float(make_state(step).ema["blocks"]["0"]["kernel"][0, 0]) for step in (4.0, 6.0))
        flip(largest, bit)


def test_the_first_checkpoint_is_read_back(tmp_path, monkeypatch):
    check, checked = Checkpoints._check_readable, []

    def lose(self, step, parts):
        if not checked:
            truncate(tmp_path / "checkpoints" / "1" / "state")
        checked.append(step)
        check(self, step, parts)

    monkeypatch.setattr(Checkpoints, "_check_readable", lose)
    lost = r"the first checkpoint, of step 1, was written to .* but can't be read back"
    with pytest.raises(CheckpointError, match=lost):
        Checkpoints(tmp_path, keep=3).save(1, make_state(1.0), {})
    shutil.rmtree(tmp_path / "checkpoints")
    for steps in ((1, 2), (3,)):
        with Checkpoints(tmp_path, keep=3) as checkpoints:
            for step in steps:
                checkpoints.save(step, make_state(1.0), {})
    assert checked == [1, 1]  # later ones, also of a run that resumes, are written in the background


@pytest.mark.parametrize("name", ["run [a]", "a\\b", "a*b"])
def test_folders_that_orbax_takes_for_patterns_are_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="--workdir is .*Orbax can't keep checkpoints"):
        Checkpoints(tmp_path / name, keep=1)


def test_the_content_of_a_dataset_counts_and_not_its_path():
    saved = {"data": {"path": "a", "stride": 1}, "dataset": "1"}
    check_settings(saved, {"data": {"path": "/b/a", "stride": 1}, "dataset": "1"}, [])
    with pytest.raises(ConfigError, match=r"the content of data.path \(its fingerprint\) is '2' \(it was '1'\)"):
        check_settings(saved, saved | {"dataset": "2"}, [])
    # Older versions stored none.
    older = {"data": {"path": "a", "stride": 1}}
    check_settings(older, saved, [])
    with pytest.raises(ConfigError, match=r"data\.path is 'b' \(it was 'a'\)"):
        check_settings(older, {"data": {"path": "b", "stride": 1}, "dataset": "1"}, [])


def test_listing_after_a_failure_warns_of_nothing(saved, caplog):
    with Checkpoints(saved, keep=5) as checkpoints, pytest.raises(CheckpointError, match="complete one is of step 6"):
        with checkpoints._failures():
            raise OSError("lost")
    assert "deprecated" not in caplog.text
