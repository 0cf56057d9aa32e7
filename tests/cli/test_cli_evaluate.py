"""`pvdm evaluate`: its three uses, and how wrong ones end."""

import json

import numpy as np
import pytest

from pvdm_jax import cli
from pvdm_jax.video.write import write_video


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    monkeypatch.setenv("PVDM_WEIGHTS", str(tmp_path / "weights"))


@pytest.fixture
def folders(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("real", "fake"):
        for i in range(3):
            write_video(tmp_path / name / f"{i}.mp4", rng.integers(0, 256, (8, 24, 24, 3)).astype(np.uint8))
    return tmp_path


def evaluate(folder, output, *more) -> int:
    """`pvdm evaluate` of the two folders, into a third one; `output` None: without."""
    sets = [f"--real={folder / 'real'}", f"--fake={folder / 'fake'}", f"--cache={folder / 'cache'}"]
    changes = ["--set", "frames=8", "bootstrap=5", *[change for change in more if not change.startswith("--")]]
    options = [option for option in more if option.startswith("--")]
    options += [f"--output={folder / output}"] if output else []
    return cli.main(["evaluate", *sets, *options, *changes])


def test_a_stranger_evaluates_two_folders_and_compares(folders, capsys):
    assert evaluate(folders, "one") == 0 and evaluate(folders, "two") == 0
    out = capsys.readouterr().out
    assert "Frechet distance in scattering features, 8 frames (not FVD)" in out and "card.json" in out
    assert {path.name for path in (folders / "one").iterdir()} == {"card.json", "card.md", "card.html"}
    card = json.loads((folders / "one" / "card.json").read_text())
    assert card["protocol"]["name"] == "quick+" and card["software"]["pvdm_jax"]
    assert "protocol.samples" in (folders / "one" / "card.html").read_text()
    assert cli.main(["evaluate", "--compare", str(folders / "one"), str(folders / "two" / "card.json")]) == 0
    assert "the intervals overlap" in capsys.readouterr().out

    before = sorted(folders.iterdir())
    assert evaluate(folders, None) == 0
    assert "Frechet distance in scattering features" in capsys.readouterr().out
    assert sorted(folders.iterdir()) == before

    assert evaluate(folders, "three", "seed=1") == 0
    assert cli.main(["evaluate", "--compare", str(folders / "one"), str(folders / "three")]) == 2
    assert "protocol.seed: 0 and 1" in capsys.readouterr().err
    assert evaluate(folders, "one") == 2
    assert "one is not empty" in capsys.readouterr().err


def test_missing_weights_name_the_file(folders, capsys):
    assert evaluate(folders, "one", "--features=i3d_torchscript") == 2
    error = capsys.readouterr().err
    assert str(folders / "weights" / "i3d_torchscript.pt") in error and "--features=scattering" in error
    assert not (folders / "one").exists()
    (folders / "weights").mkdir()
    (folders / "weights" / "i3d_torchscript.pt").write_bytes(b"no weights")
    assert evaluate(folders, "one", "--features=i3d_torchscript") == 2
    assert "i3d_torchscript.pt can't be read as weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "name one of --model, --real and --fake, --compare; none of them is given"),
        (["--model=a", "--real=b"], "--model and --real and --fake is given"),
        (["--real=b", "--output=c"], "--real and --fake go together"),
        (["--model=a"], "--output is not given"),
        (["--real=a", "--fake=b", "--output=c", "--config=demo"], "--config is 'demo'"),
        (["--model=a", "--output=c", "--config.data.path=x"], "it needs --config"),
        (["--model=a", "--output=c", "--protocol=best"], "--protocol is 'best'; choose quick"),
        (["--model=nowhere", "--output=c"], "nowhere is not a run's folder"),
        (["--real=nowhere", "--fake=nowhere", "--output=c"], "there is no folder nowhere"),
        (["--compare", "nowhere.json", "nowhere.json"], "nowhere.json"),
    ],
)
def test_wrong_uses(capsys, monkeypatch, tmp_path, argv, message):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["evaluate", *argv]) == 2
    assert message in capsys.readouterr().err
