"""Protocols: the built-in ones, files of them, and changes from the command line."""

import pytest

from pvdm_jax.config import ConfigError
from pvdm_jax.config.evaluation import PROTOCOLS, ProtocolConfig
from pvdm_jax.evaluation.protocols import load_protocol


def test_changed_protocols():
    assert load_protocol("paper_ucf101") is PROTOCOLS["paper_ucf101"]
    changed = load_protocol("paper_sky", ["samples=64", "frames=16", "measures=fvd,seams", "eta=0"], "scattering")
    assert (changed.name, changed.samples, changed.frames, changed.eta) == ("paper_sky+", 64, (16,), 0.0)
    assert changed.measures == ("fvd", "seams") and changed.features == ("scattering",)
    assert load_protocol("quick", ["samples=256"]) == PROTOCOLS["quick"]


def test_the_papers_protocols():
    """2,048 generated against as many real clips, FVD of 16 and 128 frames; Inception score of 10,000 samples."""
    for name in ("paper_ucf101", "paper_sky"):
        protocol = PROTOCOLS[name]
        assert (protocol.samples, protocol.real_samples, protocol.frames) == (2048, 2048, (16, 128))
        assert "fvd" in protocol.measures and protocol.features == ("i3d_official",)
    assert "is" in PROTOCOLS["paper_ucf101"].measures and PROTOCOLS["paper_ucf101"].inception_samples == 10_000


def test_protocol_files(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"samples": 10, "frames": [8]}')
    assert load_protocol(str(path)) == ProtocolConfig(name="mine", samples=10, frames=(8,))
    path.write_text('{"sample": 10}')
    with pytest.raises(ConfigError, match="protocol.sample is 10; there is no such field"):
        load_protocol(str(path))
    path.write_text("[1")
    with pytest.raises(ConfigError, match="mine.json is not JSON"):
        load_protocol(str(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("samples", "write field=value"),
        ("sample=3", "no such field; a protocol has name, measures, samples"),
        ("samples=few", "protocol.samples is 'few'; int is needed"),
        ("frames=16;32", "a list such as 16,128"),
        ("samples=1", "a covariance needs at least 2"),
        ("measures=fid", "protocol.measures is 'fid'; choose from fvd"),
        ("height=64", "set both sides, or neither"),
        ("ddof=2", "0 or 1"),
        ("features=i3d,i3d_official", "at most one I3D with trained weights"),
        ("features=auto,scattering", "auto stands alone"),
        ("features=c3d", "protocol.features is 'c3d'; choose from auto, i3d"),
        ("long_clips=1", "a border lies between two clips"),
        ("samples=2", "the kernel distance needs at least 3"),
        ("split=val", "choose one of train, holdout, test, all"),
    ],
)
def test_wrong_changes_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        load_protocol("quick", [change])
    with pytest.raises(ConfigError, match="choose quick, paper_ucf101"):
        load_protocol("paper")
