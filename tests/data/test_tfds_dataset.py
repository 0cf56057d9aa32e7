"""Datasets as TFDS builds them, made by hand in its exact files: the forms in which it keeps videos."""

import json

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from hostile_json import refused_by_name
from tensorflow_datasets.proto import tf_example_pb2

from pvdm_jax.config import AutoencoderConfig, ConfigError, DataConfig
from pvdm_jax.data import tfds_dataset
from pvdm_jax.data.prepare.folder import prepare
from pvdm_jax.data.prepare.options import PrepareOptions
from pvdm_jax.data.sources import open_source
from pvdm_jax.video.images import write_image

CLIP = AutoencoderConfig(frames=4, height=8, width=16)
CLASS = "tensorflow_datasets.core.features"
PICTURES = {"shape": {"dimensions": ["8", "16", "3"]}, "dtype": "uint8", "encodingFormat": "png"}
FEATURES = {
    "Video": {"pythonClassName": f"{CLASS}.video_feature.Video", "video": PICTURES},
    "Sequence": {
        "pythonClassName": f"{CLASS}.sequence_feature.Sequence",
        "sequence": {"feature": {"pythonClassName": f"{CLASS}.image_feature.Image", "image": PICTURES}, "length": "-1"},
    },
    "Tensor": {
        "pythonClassName": f"{CLASS}.tensor_feature.Tensor",
        "tensor": {"shape": {"dimensions": ["-1", "8", "16", "3"]}, "dtype": "uint8", "encoding": "none"},
    },
    "Text": {"pythonClassName": f"{CLASS}.text_feature.Text", "text": {}},
}
LABEL = {"pythonClassName": f"{CLASS}.class_label_feature.ClassLabel", "classLabel": {"numClasses": "2"}}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def frames_of(number):
    video = np.zeros((10 + number, 8, 16, 3), np.uint8)
    video[..., 0], video[..., 1] = np.arange(10 + number)[:, None, None] * 9, 40 * number
    return video


def build(root, kind="Video", file_format="array_record", name="video"):
    """Three training videos and a test video of 10, 11, ... frames; classes run and walk in turn."""
    root.mkdir(parents=True)
    splits = {"train": [0, 1, 2], "test": [3]}
    info = {"name": "moves", "version": "2.0.0", "fileFormat": file_format, "splits": []}
    for split, numbers in splits.items():
        writer = ArrayRecordWriter(str(root / f"moves-{split}.{file_format}-00000-of-00001"), "group_size:1")
        for number in numbers:
            example = tf_example_pb2.Example()
            if kind == "Tensor":
                example.features.feature[name].int64_list.value.extend(frames_of(number).ravel().tolist())
            for i, frame in enumerate(frames_of(number) if kind != "Tensor" else ()):
                write_image(root.parent / f"{i}.png", frame)
                example.features.feature[name].bytes_list.value.append((root.parent / f"{i}.png").read_bytes())
            example.features.feature["label"].int64_list.value.append(number % 2)
            writer.write(example.SerializeToString())
        writer.close()
        info["splits"].append({"name": split, "shardLengths": [str(len(numbers))], "numBytes": "1"})
    (root / "dataset_info.json").write_text(json.dumps(info))
    features = {"pythonClassName": f"{CLASS}.features_dict.FeaturesDict"}
    features["featuresDict"] = {"features": {name: FEATURES[kind], "label": LABEL}}
    (root / "features.json").write_text(json.dumps(features))
    (root / "label.labels.txt").write_text("run\nwalk\n")
    return str(root)


@pytest.mark.parametrize("kind", ["Video", "Sequence", "Tensor"])
def test_videos_labels_and_splits_are_read(tmp_path, kind):
    path = build(tmp_path / "moves" / "2.0.0", kind)
    data = DataConfig(source="tfds", path=path, holdout=0.0, eval_split="test")
    source, held_out = (open_source(data, CLIP, split, seed=0) for split in ("train", "holdout"))
    assert [source[i].name for i in range(len(source))] == ["train/000000", "train/000001", "train/000002"]
    assert source.class_names == ("run", "walk") and [source[i].label for i in range(3)] == [0, 1, 0]
    for i in range(3):
        np.testing.assert_array_equal(source[i].read(2, 3, 2), frames_of(i)[2:8:2])
    assert len(held_out) == 1
    np.testing.assert_array_equal(held_out[0].read(0, 13), frames_of(3))


def test_lengths_are_looked_up_once(tmp_path, monkeypatch):
    path = build(tmp_path / "moves" / "2.0.0")
    first = tfds_dataset.TFDSDataset(path).splits
    monkeypatch.setattr(tfds_dataset.TFDSDataset, "_facts", None)
    assert tfds_dataset.TFDSDataset(path).splits == first


def test_names_are_found_in_tfds_own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    paths = [build(tmp_path / "tfds" / "moves" / config / "2.0.0") for config in ("big", "small")]
    assert (
        tfds_dataset.find_tfds_dataset("moves/small") == tfds_dataset.find_tfds_dataset("moves/small/2.0.0") == paths[1]
    )
    assert tfds_dataset.find_tfds_dataset(paths[0]) == paths[0] and tfds_dataset.find_tfds_dataset("other") is None
    with pytest.raises(ConfigError, match="several configs, name one: big, small"):
        tfds_dataset.find_tfds_dataset("moves")
    build(tmp_path / "tfds" / "moves" / "big" / "10.0.0")
    assert tfds_dataset.find_tfds_dataset("moves/big").endswith("10.0.0")
    data = DataConfig(source="tfds", path="moves/small")
    assert len(open_source(data, CLIP, "train", seed=0)) == 3


def test_what_cannot_be_read_says_what_was_found(tmp_path):
    data = DataConfig(source="tfds", path=build(tmp_path / "a" / "1.0.0", file_format="tfrecord"))
    with pytest.raises(ConfigError, match="found files of the format tfrecord; expected array_record"):
        open_source(data, CLIP, "train", seed=0)
    data = DataConfig(source="tfds", path=build(tmp_path / "b" / "1.0.0", "Text", name="caption"))
    with pytest.raises(ConfigError, match=r"found the features caption \(Text\), label .*; expected a Video"):
        open_source(data, CLIP, "train", seed=0)


@pytest.mark.parametrize("kind", ["Video", "Tensor"])
def test_prepare_makes_a_faster_dataset_of_one(tmp_path, kind):
    path = build(tmp_path / "moves" / "2.0.0", kind)
    summary = prepare(path, tmp_path / "out", PrepareOptions(min_frames=4, fps=5))
    assert summary.layout == "tfds" and summary.splits == {"train": 3, "test": 1}
    assert summary.classes == {"run": 2, "walk": 2} and summary.seconds == pytest.approx(46 / 5)
    data = DataConfig(source="tfds", path=str(tmp_path / "out"), holdout=0.0)
    source = open_source(data, CLIP, "train", seed=0)
    np.testing.assert_array_equal(source[2].read(0, 12), frames_of(2))


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("kind", ["Sequence", "Tensor"])
def test_damaged_descriptions_are_named(tmp_path, name, kind):
    path = build(tmp_path / "data", kind)
    assert refused_by_name(tmp_path / "data" / name, lambda: tfds_dataset.TFDSDataset(path)) > 15
