"""Each layout is found in a fake tree of its exact form; for other trees, errors say what was found and expected."""

import numpy as np
import pytest

from pvdm_jax.data.folders import LayoutError, VideoEntry, natural_key
from pvdm_jax.data.layouts import LAYOUTS, Layout, list_videos


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def found(listing):
    return [(video.name, video.class_name, video.split) for video in listing.videos]


def ucf_tree(root, lists="ucfTrainTestlist", videos="UCF-101"):
    touch(root / videos, "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi", "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi")
    touch(root / videos, "YoYo/v_YoYo_g08_c01.avi", "YoYo/v_YoYo_g30_c01.avi")
    touch(root / lists, "classInd.txt")
    for number in (1, 2, 3):
        test, train = ("g01", "g08") if number == 1 else ("g08", "g01")
        (root / lists / f"trainlist{number:02d}.txt").write_text(
            f"ApplyEyeMakeup/v_ApplyEyeMakeup_{train}_c01.avi 1\nYoYo/v_YoYo_g08_c01.avi 101\n"
        )
        (root / lists / f"testlist{number:02d}.txt").write_text(
            f"ApplyEyeMakeup/v_ApplyEyeMakeup_{test}_c01.avi\nYoYo/v_YoYo_g02_c01.avi\n"
        )
    return root


@pytest.mark.parametrize("inside", ["above", "beside", "within"])
@pytest.mark.parametrize("layout", ["auto", "ucf101"])
def test_ucf101_with_its_lists_above_beside_or_within_the_videos(tmp_path, inside, layout):
    root = ucf_tree(tmp_path, lists="UCF-101/ucfTrainTestlist" if inside == "within" else "ucfTrainTestlist")
    listing = list_videos(root if inside == "above" else root / "UCF-101", layout)
    assert listing.layout == "ucf101"
    assert found(listing) == [
        ("ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi", "ApplyEyeMakeup", "test"),
        ("ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", "ApplyEyeMakeup", "train"),
        ("YoYo/v_YoYo_g08_c01.avi", "YoYo", "train"),
    ]
    assert listing.skipped == {
        "YoYo/v_YoYo_g30_c01.avi": "it is in neither trainlist01 nor testlist01",
        "YoYo/v_YoYo_g02_c01.avi": "it is in testlist01, but the file is missing",
    }


def test_the_three_lists_and_splits_of_ucf101_are_a_choice(tmp_path):
    root = ucf_tree(tmp_path)
    assert [name[-11:-8] for name, *_ in found(list_videos(root, split="train"))] == ["g08", "g08"]
    assert [name[-11:-8] for name, *_ in found(list_videos(root, split="train", list_number=2))] == ["g01", "g08"]
    assert [split for *_, split in found(list_videos(root, split="test"))] == ["test"]
    with pytest.raises(ValueError, match="list is 4; UCF-101 has the lists 1, 2 and 3"):
        list_videos(root, list_number=4)


def test_ucf101_without_lists_or_with_others_says_what_it_found(tmp_path):
    touch(tmp_path / "a", "YoYo/v_YoYo_g01_c01.avi")
    with pytest.raises(
        LayoutError, match=r"a: found YoYo/; expected UCF-101's lists .*ucfTrainTestlist.*layout=videos"
    ):
        list_videos(tmp_path / "a", "ucf101")
    assert list_videos(tmp_path / "a").layout == "videos"
    root = ucf_tree(tmp_path / "b")
    (root / "ucfTrainTestlist" / "testlist01.txt").unlink()
    with pytest.raises(LayoutError, match="found classInd.txt, .*; expected testlist01.txt"):
        list_videos(root)
    root = ucf_tree(tmp_path / "c")
    (root / "UCF-101" / "ApplyEyeMakeup").rename(root / "UCF-101" / "Makeup")
    (root / "UCF-101" / "YoYo").rename(root / "UCF-101" / "yo")
    with pytest.raises(
        LayoutError, match="found Makeup/, yo/; expected the videos that .* names, such as .*g08_c01.avi"
    ):
        list_videos(root)


@pytest.mark.parametrize("top", ["", "SKY", "sky_timelapse"])
@pytest.mark.parametrize("names", [("train", "test"), ("sky_train", "sky_test")])
@pytest.mark.parametrize("middle", ["", "07U1fSrk9oI/"])
def test_sky_timelapse_in_the_layouts_that_exist(tmp_path, top, names, middle):
    for split in names:
        touch(tmp_path / top / split, *(f"{middle}clip_{i}/frame_{k}.jpg" for i in (2, 10) for k in (1, 2)))
    listing = list_videos(tmp_path, "sky_timelapse")
    assert found(listing) == [
        (f"{name}/{middle}clip_{i}", "", split)
        for name, split in zip(names, ("train", "test"), strict=True)
        for i in (2, 10)
    ]
    assert {video.kind for video in listing.videos} == {"pictures"}
    if top or "sky" in names[0]:
        assert list_videos(tmp_path).layout == "sky_timelapse"


def test_sky_timelapse_without_its_splits_is_off(tmp_path):
    touch(tmp_path, "clip_1/0.jpg", "clip_2/0.jpg")
    with pytest.raises(LayoutError, match=r"Found clip_1/, clip_2/; expected sky_timelapse: train/ and test/"):
        list_videos(tmp_path, "sky_timelapse")
    touch(tmp_path / "some", "train/clip/0.jpg")
    with pytest.raises(LayoutError, match="no videos for split=test .*; those found are for train"):
        list_videos(tmp_path / "some", split="test")


def test_folders_of_frames_with_and_without_classes(tmp_path):
    touch(tmp_path, "b/1.png", "a/x/1.PNG", "a/x/2.PNG", "a/.hidden/1.png", "notes.txt")
    listing = list_videos(tmp_path)
    assert listing.layout == "frames" and found(listing) == [("a/x", "a", "train"), ("b", "", "train")]


def test_videos_with_classes_splits_and_deeper_folders(tmp_path):
    touch(tmp_path / "a", "top.mp4", "walk/2.avi", "walk/10.avi", "walk/more/1.MOV", ".hidden/x.mp4", "walk/notes.txt")
    assert found(list_videos(tmp_path / "a")) == [
        ("top.mp4", "", "train"),
        ("walk/2.avi", "walk", "train"),
        ("walk/10.avi", "walk", "train"),
        ("walk/more/1.MOV", "walk", "train"),
    ]
    touch(tmp_path / "b", "val/run/1.mp4", "train/run/2.mp4", "train/3.mp4")
    assert found(list_videos(tmp_path / "b")) == [
        ("train/3.mp4", "", "train"),
        ("train/run/2.mp4", "run", "train"),
        ("val/run/1.mp4", "run", "test"),
    ]


def test_a_class_of_trains_is_no_split(tmp_path):
    touch(tmp_path, "train/1.mp4", "car/1.mp4")
    assert found(list_videos(tmp_path)) == [("car/1.mp4", "car", "train"), ("train/1.mp4", "train", "train")]


def test_arrays_of_one_and_of_several_videos(tmp_path):
    np.save(tmp_path / "one.npy", np.zeros((5, 8, 8, 3), np.uint8))
    np.savez(tmp_path / "two.npz", a=np.zeros((2, 5, 8, 8, 3), np.uint8), b=np.zeros((5, 8, 8, 3), np.uint8))
    listing = list_videos(tmp_path)
    assert listing.layout == "arrays"
    assert [(v.name, v.key, v.index) for v in listing.videos] == [
        ("one.npy", "", -1),
        ("two.npz:a[0]", "a", 0),
        ("two.npz:a[1]", "a", 1),
        ("two.npz:b", "b", -1),
    ]


@pytest.mark.parametrize(
    ("array", "shown"),
    [
        (np.zeros((5, 8, 8, 3), np.float32), r"float32 \(5, 8, 8, 3\)"),
        (np.zeros((20, 5, 8, 8), np.uint8), r"uint8 \(20, 5, 8, 8\)"),
        (np.array([{"a": 1}]), "not a numpy file of plain arrays"),
    ],
)
def test_other_arrays_are_refused_with_what_was_found(tmp_path, array, shown):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(LayoutError, match=rf"x.npy: .*{shown}"):
        list_videos(tmp_path)


def test_nothing_that_fits_lists_every_layout(tmp_path):
    touch(tmp_path, "a.txt")
    with pytest.raises(LayoutError, match=r"(?s)Found a.txt; expected.*" + ".*".join(f"{name}:" for name in LAYOUTS)):
        list_videos(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such folder"):
        list_videos(tmp_path / "nowhere")
    with pytest.raises(
        ValueError, match="layout is 'zip'; choose one of auto, tfds, ucf101, videos, sky_timelapse, frames, arrays"
    ):
        list_videos(tmp_path, "zip")


def test_frames_come_in_natural_order():
    assert sorted(["f10.png", "f9.png", "f1_2.png", "f1_10.png"], key=natural_key) == [
        "f1_2.png",
        "f1_10.png",
        "f9.png",
        "f10.png",
    ]


def test_a_layout_is_one_row_of_the_table(tmp_path, monkeypatch):
    """It is found by name and detected by its contents, and messages list it."""

    def find(source, list_number):
        return [VideoEntry(path.name, "", "train", "file", str(path)) for path in sorted(source.glob("*.film"))]

    row = Layout("film", expected="NAME.film", find=find, detect=lambda c: any(c.source.glob("*.film")))
    monkeypatch.setitem(LAYOUTS, row.name, row)
    touch(tmp_path / "films", "b.film", "a.film")
    for layout in ("auto", "film"):
        listing = list_videos(tmp_path / "films", layout)
        assert listing.layout == "film" and [video.name for video in listing.videos] == ["a.film", "b.film"]
    touch(tmp_path / "others", "a.txt")
    with pytest.raises(LayoutError, match="film: NAME.film"):
        list_videos(tmp_path / "others")
