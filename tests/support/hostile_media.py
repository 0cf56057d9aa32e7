"""Video files and folders that are damaged, odd, or made to make a reader reach out.

`make(folder)` writes them: one folder for each kind, each with a good video beside what is odd. Reading a folder may
skip any of it by name; it must not end, hang, open a socket or read other files.
"""

import io
import os
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

FRAMES, SIDE = 20, 32
PORT = 18770

SDP = f"v=0\no=- 0 0 IN IP4 0.0.0.0\ns=x\nc=IN IP4 0.0.0.0\nt=0 0\nm=video {PORT} RTP/AVP 96\na=rtpmap:96 H264/90000\n"
PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n"
MPD = '<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period><BaseURL>http://127.0.0.1:{}/</BaseURL></Period></MPD>'


def clip(frames: int = FRAMES, seed: int = 0) -> np.ndarray:
    """A moving gradient with a little noise: uint8 (frames, SIDE, SIDE, 3)."""
    rng = np.random.default_rng(seed)
    grid = np.add.outer(np.arange(SIDE), np.arange(SIDE))
    moving = np.stack([(4 * grid + 8 * t) % 256 for t in range(frames)])
    return np.clip(moving[..., None] + rng.integers(0, 9, (frames, SIDE, SIDE, 3)), 0, 255).astype(np.uint8)


def encoded(container: str = "mp4", codec: str = "libx264", frames: int = FRAMES, options=None) -> bytes:
    """The bytes of a video file."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as file:
        stream = file.add_stream(codec, rate=8, options=options or {})
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        for frame in clip(frames):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
    return buffer.getvalue()


def picture(seed: int = 0) -> bytes:
    """A png file."""
    from pvdm_jax.video.images import encode_png

    return encode_png(clip(1, seed)[0])


def make(root: Path) -> list[Path]:
    """Writes all folders below `root`, and returns them."""
    good, folders = encoded(), []
    for kind, content in _files(good).items():
        folder = root / kind
        folder.mkdir(parents=True)
        (folder / "good.mp4").write_bytes(good)
        for name, data in content.items():
            path = Path(os.fsdecode(os.path.join(os.fsencode(folder), os.fsencode(name))))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        folders.append(folder)
    for kind, change in _SPECIAL.items():
        folder = root / kind
        folder.mkdir()
        (folder / "good.mp4").write_bytes(good)
        change(folder)
        folders.append(folder)
    return folders


def _files(good: bytes) -> dict[str, dict[str | bytes, bytes]]:
    reach = {
        "sdp": SDP,
        "concat": "ffconcat version 1.0\nfile good.mp4\n",
        "concat_far": "ffconcat version 1.0\nfile /etc/passwd\n",
        "concat_http": f"ffconcat version 1.0\nfile http://127.0.0.1:{PORT}/x.mp4\n",
        "concat_self": "ffconcat version 1.0\nfile x.mp4\n",
        "playlist_self": PLAYLIST.format("x.mp4"),
        "playlist_http": PLAYLIST.format(f"http://127.0.0.1:{PORT}/x.ts"),
        "playlist_file": PLAYLIST.format("/etc/passwd"),
        "dash": MPD.format(PORT),
        "rtsp": f"[Reference]\nRef1=http://127.0.0.1:{PORT}/x\n",
        "subtitles": "1\n00:00:00,000 --> 00:00:09,000\nx\n",
        "text": "hello\n" * 100,
    }
    kinds = {f"reach_{name}": {"x.mp4": text.encode(), "x.avi": text.encode()} for name, text in reach.items()}
    mkv, webm = encoded("matroska"), encoded("webm", "libvpx")
    avi, transport = encoded("avi", "mpeg4"), encoded("mpegts")
    rng = random.Random(0)
    middle = bytearray(good)
    for at in range(len(good) // 3, len(good) // 3 + 200):
        middle[at] = rng.randrange(256)
    kinds |= {
        "damage": {
            "empty.mp4": b"",
            "zeros.mp4": bytes(10_000),
            "random.mp4": rng.randbytes(10_000),
            "middle.mp4": bytes(middle),
            "cut.mp4": good[: len(good) * 6 // 10],
            "cut.mkv": mkv[: len(mkv) * 6 // 10],
            "cut.webm": webm[: len(webm) * 6 // 10],
            "cut.avi": avi[: len(avi) * 6 // 10],
            "no_frames.mp4": good[:64],
        },
        "flipped": {f"{number}.mp4": _flipped(good, rng) for number in range(20)},
        "misnamed": {"transport.mp4": transport, "mkv.avi": mkv, "avi.mp4": avi, "webm.mov": webm},
        "later_key": {"late.mkv": _without_first_key(), "late.mp4": _without_first_key("mp4")},
        "names": {
            "12:30:05.mp4": good,
            "12:30/a.mp4": good,
            "concat:a.mp4": good,
            "http:/127.0.0.1:18770/x.mp4": good,
            "file:x.mp4": good,
            "-i.mp4": good,
            "a b\n.mp4": good,
            "%05d.mp4": good,
            b"\xff\xfe.mp4": good,
            ("n" * 250 + ".mp4"): good,
        },
        "suffixes": {f"a.{suffix}": good for suffix in "m4v mpg mpeg ts flv wmv 3gp ogv MP4 txt".split()},
        "pictures_and_video": {f"v/{i:03d}.png": picture(i) for i in range(20)} | {"v/preview.mp4": good},
        "pictures_damaged": {f"v/{i:03d}.png": picture(i)[: 60 if i == 5 else None] for i in range(20)},
        "pictures_bomb": {f"v/{i:03d}.png": _png_of(60_000, 60_000) for i in range(20)},
        "arrays": {
            "a.npy": _npy(clip()),
            "floats.npy": _npy(np.zeros((20, 32, 32, 3))),
            "objects.npz": _encrypted(),
            "4TB.npy": b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_order': False, 'shape': (2**42,)}".ljust(128),
            "huge.npy": _npy_header((1_000_000, 2000, 2000, 3)),
        },
    }
    return kinds


def _flipped(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(5):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _without_first_key(container: str = "matroska") -> bytes:
    """A recording that begins between two key frames."""
    source, target = av.open(io.BytesIO(encoded(options={"g": "8", "bf": "0"}))), io.BytesIO()
    with av.open(target, "w", format=container) as file:
        stream = file.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if number >= 3 and packet.dts is not None:
                packet.stream = stream
                file.mux(packet)
    return target.getvalue()


def _png_of(width: int, height: int) -> bytes:
    """The start of a png file of this size."""
    data = bytearray(picture())
    struct.pack_into(">II", data, 16, width, height)
    return bytes(data)


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _npy_header(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue() + bytes(1000)


def _encrypted() -> bytes:
    """An npz file whose entry says that it is encrypted."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("video.npy", _npy(clip()))
    data = bytearray(buffer.getvalue())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        struct.pack_into("<H", data, data.find(mark) + offset, 1)
    return bytes(data)


def _sparse(name: str, size: int) -> Callable[[Path], None]:
    def make_sparse(folder: Path) -> None:
        with (folder / name).open("wb") as file:
            file.truncate(size)

    return make_sparse


def _two_loops(folder: Path) -> None:
    for name in ("a", "b"):
        (folder / name).mkdir()
        (folder / name / "up").symlink_to(folder)


_SPECIAL: dict[str, Callable[[Path], None]] = {
    "pipe": lambda folder: os.mkfifo(folder / "x.mp4"),
    "device": lambda folder: (folder / "x.mp4").symlink_to("/dev/zero"),
    "link_dangling": lambda folder: (folder / "x.mp4").symlink_to(folder / "absent.mp4"),
    "link_to_itself": lambda folder: (folder / "x.mp4").symlink_to(folder / "x.mp4"),
    "link_to_parent": lambda folder: (folder / "up").symlink_to(folder),
    "links_in_circles": _two_loops,
    "folder_named_video": lambda folder: (folder / "x.mp4").mkdir(),
    "sparse_3GB": _sparse("x.mp4", 3 * 2**30),
    "sparse_100GB": _sparse("x.mkv", 100 * 10**9),
    "sparse_array": _sparse("x.npy", 100 * 10**9),
}
