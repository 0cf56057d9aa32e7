"""Which files of a folder are videos: each real one once, and odd ones named with the reason."""

import os
import pathlib

import pytest

from pvdm_jax.video.errors import VideoError
from pvdm_jax.video.files import FolderScan, file_problem, shown, video_files
from pvdm_jax.video.read import probe_video


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"content")


def names(root):
    return [path.relative_to(root).as_posix() for path in video_files(root)[0]]


def test_files_come_in_natural_order_and_without_hidden_ones(tmp_path):
    touch(
        tmp_path, "10.MP4", "9.avi", "b/2.ts", "b/c/1.wmv", "a10/x.webm", "a9/x.m4v", ".x.mp4", ".a/x.mp4", "notes.txt"
    )
    assert names(tmp_path) == ["9.avi", "10.MP4", "a9/x.m4v", "a10/x.webm", "b/2.ts", "b/c/1.wmv"]
    assert video_files(tmp_path)[1] == {}


def test_every_real_file_is_taken_once(tmp_path):
    root = tmp_path / "videos"
    touch(root, "a/1.mp4", "b/2.mp4")
    touch(tmp_path, "other/3.mp4", "single.mp4")
    (root / "a" / "up").symlink_to("..")
    (root / "b" / "up").symlink_to("../..")
    (root / "b" / "everything").symlink_to("/")
    (root / "0first").symlink_to("b")
    (root / "same.mp4").symlink_to("a/1.mp4")
    (root / "more").symlink_to(tmp_path / "other")
    (root / "again").symlink_to(root / "more")
    (root / "one.mp4").symlink_to(tmp_path / "single.mp4")
    (root / "two.mp4").symlink_to(tmp_path / "single.mp4")
    paths, skipped = video_files(root)
    found = [path.relative_to(root).as_posix() for path in paths]
    assert found == ["one.mp4", "a/1.mp4", "again/3.mp4", "b/2.mp4"]
    assert "taken already" in skipped["same.mp4"] and "taken already" in skipped["two.mp4"]
    assert "read already" in skipped["0first"] and "this folder lies in" in skipped["b/everything"]


def odd_files(root):
    """Things that are called videos, and a part of the reason for which each is skipped."""
    root.mkdir(exist_ok=True)
    (root / "dangling.mp4").symlink_to("gone")
    (root / "itself.mp4").symlink_to("itself.mp4")
    os.mkfifo(root / "pipe.mp4")
    (root / "zero.mp4").symlink_to("/dev/zero")
    (root / "tape.mxf").write_bytes(b"content")
    return {
        "dangling.mp4": "a link to gone, which does not exist",
        "itself.mp4": "a link that leads back to itself",
        "pipe.mp4": "a named pipe, not a file",
        "zero.mp4": "a device, not a file",
        "tape.mxf": ".mxf files are not read; convert it",
    }


def test_odd_files_are_skipped_by_name(tmp_path):
    expected = odd_files(tmp_path)
    latin = os.fsencode(tmp_path) + b"/caf\xe9.mp4"
    pathlib.Path(os.fsdecode(latin)).write_bytes(b"content")
    (tmp_path / "folder").symlink_to("nowhere")
    touch(tmp_path, "good.mp4")
    paths, skipped = video_files(tmp_path)
    assert [path.name for path in paths] == ["good.mp4"]
    expected |= {"caf\\xe9.mp4": "not UTF-8; rename it", "folder": "a link to nowhere, which does not exist"}
    assert skipped.keys() == expected.keys()
    for name, reason in expected.items():
        assert reason in skipped[name]


def test_odd_files_named_directly_are_refused(tmp_path):
    for name, reason in odd_files(tmp_path).items():
        if not name.endswith(".mxf"):
            with pytest.raises(VideoError, match=reason):
                probe_video(tmp_path / name)


def test_a_file_that_was_never_written_is_sparse(tmp_path):
    with (tmp_path / "a.mp4").open("wb") as file:
        file.write(b"\0\0\0 ftypisom")
        file.truncate(100 * 2**30)
    with pytest.raises(VideoError, match="a.mp4: most of it was never written"):
        probe_video(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_bytes(b"x" * 2**21)
    assert file_problem(tmp_path / "b.mp4") == ""
    with pytest.raises(FileNotFoundError):
        file_problem(tmp_path / "none.mp4")


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    touch(tmp_path, "a/1.mp4", "b.c/2.mp4")
    scandir = os.scandir

    def refuse(folder):
        if str(folder).endswith("b.c"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    scan = FolderScan(tmp_path)
    assert [path.name for path in scan.files((".mp4",))] == ["1.mp4"]
    assert scan.skipped_files((".mp4",)) == {"b.c": "its files can't be listed (Permission denied)"}


def test_names_are_shown_in_one_line():
    for mark in "\n\r\t\v\x1c\x85\u2028\u2029":
        assert len(f"a{mark}b".splitlines()) == 1 + (mark != "\t") and len(shown(f"a{mark}b").splitlines()) == 1
    assert shown("a b\u00a0é中") == "a b\u00a0é中"
