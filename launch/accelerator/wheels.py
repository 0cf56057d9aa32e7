"""Uses wheels from a folder, without pip and without touching the installation: a wheel is an archive of a package."""

import importlib.metadata
import pathlib
import re
import sys
import zipfile

PYTHON_TAGS = ("py3", "py2.py3", f"py3{sys.version_info.minor}", f"cp3{sys.version_info.minor}")


def unpack_missing(folder: pathlib.Path, target: pathlib.Path) -> tuple[list[str], list[str]]:
    """Unpacks into `target` those wheels of `folder` whose packages are not installed.

    Returns the names of the packages that were unpacked, and the reasons why other wheels cannot be used.
    """
    used, refused = [], []
    for wheel in sorted(folder.glob("*.whl")):
        # NAME-VERSION[-BUILD]-PYTHON-ABI-PLATFORM.whl
        name, *_, python, abi, platform = wheel.stem.split("-")
        if is_installed(name):
            continue
        if python not in PYTHON_TAGS and abi != "abi3":
            refused.append(f"{wheel.name} is for {python}, this is Python 3.{sys.version_info.minor}")
            continue
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)
        for part in target.glob("*.data/*lib"):  # a wheel may keep its modules in such folders
            for item in part.iterdir():
                item.rename(target / item.name)
        used.append(name)
    return used, refused


def is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(re.sub(r"[-_.]+", "-", name))
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
