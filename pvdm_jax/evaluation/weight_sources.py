"""The networks' weight files that evaluations use: their names, where they come from, and where they are looked for.

No weights come with this package. A missing file is never replaced silently: the error names the file, says where it
can be obtained, and where to put it.
"""

import dataclasses
import logging
import os
import pathlib

from pvdm_jax.storage.cache import cache_folder
from pvdm_jax.weights.foreign_files import WeightFile, read_weights


@dataclasses.dataclass(frozen=True)
class WeightSource:
    """A public file of weights: its usual name, what it holds, and where it can be obtained."""

    name: str
    content: str
    origin: str


SOURCES = {
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
        "docs/evaluation.md has the six lines that write it in an environment with TensorFlow",
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
# SHA-256 hashes that a public source gives: the file's key in SOURCES, and that source.
HASHES = {
    "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2": (
        "i3d_torchscript",
        "flateon/FVD-I3D-torchscript on the Hugging Face hub, revision 1c2d617",
    ),
}


def weights_folder() -> pathlib.Path:
    """The folder where weights are looked for: $PVDM_WEIGHTS, or one in the user's cache."""
    return pathlib.Path(os.environ.get("PVDM_WEIGHTS") or cache_folder("weights"))


def find_weights(kind: str, folder: pathlib.Path | None = None, path: pathlib.Path | None = None) -> WeightFile:
    """Reads the file of a kind in SOURCES: `path`, or the one of its usual name in `folder` (None: `weights_folder()`).

    Warns if no public source confirms the file's hash. Raises FileNotFoundError, which says what to obtain and where
    to put it, and WeightFileError for a file that can't be read.
    """
    source = SOURCES[kind]
    path = path or (folder or weights_folder()) / source.name
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {path}: {source.content}. Where it comes from: {source.origin}. Put it there"
        )
    file = read_weights(path)
    published = [digest for digest, (name, _) in HASHES.items() if name == kind]
    if file.sha256 not in published:
        reason = f"a public source has {published[0]}" if published else "no public source for its hash is known"
        logging.warning("%s has SHA-256 %s; %s. It is used as it is, and the card names it", path, file.sha256, reason)
    return file
