"""Configuration files and overrides: what is accepted, and what every refusal says."""

import pytest

from pvdm_jax.config import Config, ConfigError, DiTConfig, config_from_dict, config_to_dict
from pvdm_jax.config.loading import config_names, default_config, load_settings

MINIMAL = """
from pvdm_jax.config.loading import default_config


def get_config():
    config = default_config()
    config.seed = 7
    return config
"""

WITH_VARIANTS = """
from pvdm_jax.config.loading import default_config


def get_config(variant="small"):
    config = default_config()
    config.denoiser.model_channels = {"small": 64, "large": 128}[variant]
    return config
"""


@pytest.fixture
def write(tmp_path):
    def write_file(text, name="mine.py"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write_file


def refusal(spec, *overrides):
    with pytest.raises(ConfigError) as error:
        load_settings(spec, overrides)
    return str(error.value)


def test_default_config_is_the_dataclasses_defaults(write):
    path = write("from pvdm_jax.config.loading import default_config as get_config\n")
    assert load_settings(path) == Config()


def test_file_changes_one_field(write):
    config = load_settings(write(MINIMAL))
    assert config.seed == 7
    assert config == Config(seed=7)


def test_variants(write):
    path = write(WITH_VARIANTS)
    assert load_settings(path).denoiser.model_channels == 64
    assert load_settings(f"{path}:large").denoiser.model_channels == 128


def test_overrides_of_every_type(write):
    overrides = [
        "--config.seed=3",
        "--config.data.flip=true",
        "--config.data.path=some/folder",
        "--config.train_diffusion.optimizer.learning_rate=1e-3",
        "--config.denoiser.channel_mult=1,2",
        "--config.autoencoder.width=128",
    ]
    config = load_settings(write(MINIMAL), overrides)
    assert config.seed == 3
    assert config.data.flip is True
    assert config.data.path == "some/folder"
    assert config.train_diffusion.optimizer.learning_rate == 1e-3
    assert config.denoiser.channel_mult == (1, 2)
    assert (config.autoencoder.height, config.autoencoder.width) == (256, 128)


def test_an_integer_is_a_number(write):
    assert load_settings(write(MINIMAL), ["--config.sample.guidance=2"]).sample.guidance == 2.0


def test_booleans_may_be_written_as_switches(write):
    path = write(MINIMAL)
    assert load_settings(path, ["--config.data.flip"]).data.flip is True
    assert load_settings(path, ["--config.data.flip", "--noconfig.data.flip"]).data.flip is False


def test_the_last_override_of_a_field_holds(write):
    assert load_settings(write(MINIMAL), ["--config.seed=1", "--config.seed=2"]).seed == 2


def test_loading_twice_does_not_remember_overrides(write):
    path = write(MINIMAL)
    load_settings(path, ["--config.seed=1"])
    assert load_settings(path).seed == 7
    assert default_config().seed == Config().seed


def test_checks_come_after_the_overrides(write):
    path = write(MINIMAL.replace("config.seed = 7", 'config.data.source = "tfds"'))
    assert "data.path" in refusal(path)
    assert load_settings(path, ["--config.data.path=some/folder"]).data.source == "tfds"


def test_bare_names_are_the_projects_own():
    assert {"demo", "doom", "sky_timelapse", "ucf101", "video_folder"} <= set(config_names())
    assert load_settings("ucf101:s").denoiser.model_channels == 128


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("--config.seed=abc", ["seed", "'abc'", "integer"]),
        ("--config.seed=1.5", ["seed", "'1.5'", "integer"]),
        ("--config.sample.eta=much", ["sample.eta", "'much'", "number"]),
        ("--config.data.flip=perhaps", ["data.flip", "'perhaps'", "true or false"]),
        ("--config.denoiser.channel_mult=1,x'", ["denoiser.channel_mult", "1,x", "list of integers"]),
        ("--config.denoiser.channel_mult=a,b", ["denoiser.channel_mult", "a"]),
        ("--config.seed", ["seed", "integer"]),
        ("--config.denoiser=3", ["denoiser", "'3'", "group", "denoiser.model_channels"]),
        ("--config.seed.deeper=3", ["seed.deeper", "no such field", "seed is not a group"]),
        ("--config.autoencoder.height=30", ["autoencoder.height", "30", "autoencoder.patch_size"]),
        ("--config.sample.sampler=leapfrog", ["sample.sampler", "'leapfrog'", "ddim", "ddpm"]),
        ("--config.sample.eta=nan", ["sample.eta", "nan", "finite"]),
        ("seed=3", ["seed=3", "--config.some.field=value"]),
    ],
)
def test_refused_overrides_name_field_value_and_what_is_allowed(write, override, parts):
    message = refusal(write(MINIMAL), override)
    for part in parts:
        assert part in message


def test_the_denoiser_s_kind_decides_which_fields_there_are(write):
    path = write(MINIMAL)
    shared = ("--config.denoiser.num_classes=3", "--config.denoiser.dtype=bfloat16")
    config = load_settings(path, [*shared, "--config.denoiser.width=96", "--config.denoiser.name=dit"]).denoiser
    assert config == DiTConfig(width=96, num_classes=3, dtype="bfloat16")
    assert config_from_dict(Config, config_to_dict(Config(denoiser=config))).denoiser == config
    assert "denoiser.model_channels is '64'; there is no such field" in refusal(
        path, "--config.denoiser.name=dit", "--config.denoiser.model_channels=64"
    )
    assert "denoiser.name is 'gan'; it must be one of unet, dit" in refusal(path, "--config.denoiser.name=gan")
    assert "did you mean denoiser.width?" in refusal(path, "--config.denoiser.name=dit", "--config.denoiser.widht=64")


def test_unknown_fields_come_with_the_closest_names(write):
    path = write(MINIMAL)
    message = refusal(path, "--config.denoiser.model_chanels=64")
    assert "no such field" in message
    assert "did you mean denoiser.model_channels?" in message
    message = refusal(path, "--config.steps=64")
    assert "train_autoencoder.steps" in message
    assert "train_diffusion.steps" in message
    message = refusal(path, "--config.xyzzy=64")
    assert "did you mean" not in message
    assert "autoencoder, denoiser" in message


def test_unknown_field_in_a_file(write):
    message = refusal(write(MINIMAL.replace("config.seed", "config.denoiser.sead")))
    assert "denoiser.sead is 7; there is no such field" in message


def test_missing_file_and_unknown_name():
    assert "nowhere.py" in refusal("nowhere.py")
    message = refusal("demoo")
    assert "demoo" in message
    assert "demo, doom, sky_timelapse, ucf101, video_folder" in message


def test_unknown_variant_and_file_without_variants(write):
    message = refusal("ucf101:xl")
    assert "'xl'" in message
    assert "l, s, dit-l, dit-s, l-official, s-official" in message
    assert "has no variants" in refusal(write(MINIMAL) + ":large")


def test_file_without_get_config(write):
    assert "get_config" in refusal(write("seed = 3\n"))


def test_errors_in_a_files_own_code_pass_through(write):
    with pytest.raises(ZeroDivisionError):
        load_settings(write(MINIMAL.replace("7", "1 // 0")))
