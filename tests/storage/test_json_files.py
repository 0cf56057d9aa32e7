"""Every JSON file that is read back may be damaged or edited: it is used, or refused in one line that names it."""

import json
import os

import jax
import numpy as np
import pytest
from hostile_json import refused_by_name
from tiny_config import CONFIG
from tiny_model import NAMES, tiny_model

from pvdm_jax.config import ConfigError, config_to_dict
from pvdm_jax.evaluation.card import compare, read_card
from pvdm_jax.evaluation.protocols import load_protocol
from pvdm_jax.inference.loading import load
from pvdm_jax.storage import checkpoint
from pvdm_jax.storage.json_files import JsonError, Maybe, read_json, try_read_json
from pvdm_jax.storage.run_folder import RunFolder, read_settings
from pvdm_jax.training.policy import RECORD_SHAPE, PhaseRecord
from pvdm_jax.weights import model_card, model_folder

ENTRY = {"value": 1.0, "low": 0.5, "high": 2.0, "better": "lower"}
CARD = {"card": 1, "results": {"fvd_16": ENTRY}, "protocol": {"name": "quick"}, "networks": {}, "real": {}}
CARD |= {"generated": {}, "not_measured": {}}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "model"
    made = tiny_model()
    weights = {name: jax.tree.map(np.asarray, params) for name, params in made.weights.items()}
    facts = {"source": {"autoencoder": "made up"}, "notes": ["A note."]}
    return model_folder.write_model(folder, made.config, weights["autoencoder"], weights["denoiser"], facts, NAMES)


def test_model_folders(model, monkeypatch):
    monkeypatch.setattr(model_folder, "read_weights", lambda path, expected: None)
    monkeypatch.setattr(model_folder.functional, "abstract", lambda make: (None, None))
    assert refused_by_name(model / "config.json", lambda: model_folder.read_model(model)) > 100
    assert (
        refused_by_name(model / "card.json", lambda: model_card.network_facts(model_card.read_card(model), "denoiser"))
        > 10
    )


def test_the_configuration_of_a_run(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config_to_dict(CONFIG) | {"class_names": ["a", "b", "c"]}))
    assert refused_by_name(path, lambda: read_settings(path)) > 100


def test_cards(tmp_path):
    for name in ("one", "other"):
        (tmp_path / f"{name}.json").write_text(json.dumps(CARD))
    path = tmp_path / "one.json"

    def compare_cards():
        try:
            compare(read_card(path), read_card(tmp_path / "other.json"))
        except ConfigError as error:
            if "can't be compared" not in str(error):
                raise

    assert refused_by_name(path, compare_cards) > 30


def test_protocol_files(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"samples": 10, "frames": [8], "split": "all", "eta": 0.5}')
    assert refused_by_name(path, lambda: load_protocol(str(path))) > 20


def test_records_of_phases(tmp_path):
    path = tmp_path / "best.json"
    path.write_text(json.dumps(PhaseRecord(judged=4, best_step=2).to_json()))
    assert refused_by_name(path, lambda: PhaseRecord.from_json(read_json(path, RECORD_SHAPE))) > 30
    assert refused_by_name(path, lambda: checkpoint.best_step(tmp_path)) > 20


def test_what_a_damaged_model_folder_is_called(model):
    """A folder whose config.json is damaged is not taken for a run's."""
    path = model / "config.json"
    good = path.read_bytes()
    try:
        for content in (b"5", b"null", b"", b"\xff"):
            path.write_bytes(content)
            with pytest.raises(JsonError, match="config.json"):
                load(model)
    finally:
        path.write_bytes(good)


def test_a_run_with_a_damaged_configuration_resumes(tmp_path):
    """Its config.json is written again, so it must not be taken for a damaged model folder."""
    stage = RunFolder(tmp_path).autoencoder
    stage.checkpoints.mkdir(parents=True)
    stage.config.write_text("{")
    assert not model_folder.is_model_folder(stage.path)
    with pytest.raises(ConfigError, match="config.json is not JSON"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("[1", "is not JSON: Expecting"),
        ('{"a": {"b": 1}}', "lacks a.c"),
        ('{"a": {"b": 1, "c": [1, "x"]}}', r"a.c\[1\] is a text; an integer is needed"),
        ('{"a": {"b": true, "c": []}}', "a.b is True; a number is needed"),
        ('{"a": {"b": 1, "c": [], "d": 2}}', "a.d is 2; a text is needed"),
        ('{"a": {"b": NaN, "c": []}}', "it holds NaN"),
        ("[" * 65 + "]" * 65, "nested more than 64 deep"),
    ],
)
def test_refusals_say_what_is_wrong(tmp_path, content, message):
    path = tmp_path / "x.json"
    path.write_text(content)
    shape = {"a": {"b": float, "c": [int], "d": Maybe(str)}}
    with pytest.raises(JsonError, match=f"x.json.*{message}"):
        read_json(path, shape)
    warnings = []
    assert try_read_json(path, shape, warnings.append, "made again") is None
    assert "x.json" in warnings[0] and warnings[0].endswith("made again")
    path.write_text('{"a": {"b": 1, "c": [2], "d": null}, "more": 1}')
    assert read_json(path, shape)["a"]["b"] == 1


def test_pipes_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.json")
    with pytest.raises(OSError, match="not a regular file"):
        read_json(tmp_path / "x.json")
    assert try_read_json(tmp_path / "absent.json", dict, pytest.fail, "") is None
