"""What importing loads, which room may import which, and that the version is one."""

import ast
import gc
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pvdm_jax

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pvdm_jax"

# The rooms of docs/architecture.md from the ground up; a module imports only from lower rooms or its own.
ROOMS = (
    "config",
    "storage",
    "runtime",
    "models",
    "losses",
    "diffusion",
    "video",
    "weights",
    "reporting",
    "data",
    "inference",
    "evaluation",
    "training",
    "performance",
    "commands",
    "pvdm_jax",  # its `load` calls inference.loading
    "cli",
)
CORE = ("config", "models", "diffusion", "losses")
OUTSIDE_CORE = ("pvdm_jax.config.loading", "pvdm_jax.config.recipes")  # these know ml_collections
CORE_REQUIREMENTS = {"jax", "flax", "optax", "einops", "numpy"}
# Libraries that the core does without; those of them that are slow to import are not for the package's top either.
DATA_STACK = (
    *("tensorflow", "tensorflow_datasets", "grain", "array_record", "orbax", "clu", "ml_collections"),
    *("av", "PIL", "tensorboardX", "scipy", "tqdm"),
)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py")) if "configs" not in path.parts}


def room(module: str) -> str:
    """pvdm_jax.models.unet -> models"""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


CORE_MODULES = [module for module in MODULES if room(module) in CORE and module not in OUTSIDE_CORE]


def parse(source: str) -> ast.Module:
    """The syntax tree. Python 3.11 gives up if garbage is collected meanwhile and what is collected prints a traceback
    (python/cpython#106905), as an error of a background write does that another test has left."""
    gc.disable()
    try:
        return ast.parse(source)
    finally:
        gc.enable()


def imports(module: str) -> set[str]:
    """All that a module imports, in functions and for type checkers too: own modules in full, of others the package."""
    tree = parse(MODULES[module].read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import; write it in full"
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & set(MODULES)
            found |= submodules or {node.module}
    return {name if name.split(".")[0] == "pvdm_jax" else name.split(".")[0] for name in found}


def own_imports(module: str) -> set[str]:
    return {name for name in imports(module) if name.split(".")[0] == "pvdm_jax"}


def run(code: str, *argv: str) -> str:
    """The output of a fresh interpreter that runs `code` in the project's folder."""
    done = subprocess.run([sys.executable, "-c", code, *argv], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_has_a_room():
    assert {room(module) for module in MODULES} <= set(ROOMS)


@pytest.mark.parametrize("module", MODULES)
def test_no_import_runs_upwards(module):
    height = ROOMS.index(room(module))
    upwards = [name for name in own_imports(module) if ROOMS.index(room(name)) > height]
    assert upwards == []


def test_no_import_runs_in_a_circle():
    graph = {module: own_imports(module) - {module} for module in MODULES}
    while graph:
        free = {module for module, needed in graph.items() if not needed & set(graph)}
        assert free, f"these import each other: {sorted(graph)}"
        graph = {module: needed for module, needed in graph.items() if module not in free}


@pytest.mark.parametrize("module", CORE_MODULES)
def test_the_core_imports_only_the_core_libraries(module):
    foreign = imports(module) - own_imports(module) - set(sys.stdlib_module_names)
    assert foreign <= CORE_REQUIREMENTS


def test_the_core_imports_without_the_data_stack():
    """Whoever lifts the core out, or has a machine without the data stack, can run it."""
    program = """
import importlib, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Block())
for module in sys.argv[2:]:
    importlib.import_module(module)
print("imported")
"""
    assert run(program, ",".join(DATA_STACK), *CORE_MODULES) == "imported\n"


@pytest.mark.parametrize(
    "statement",
    [
        "import pvdm_jax",
        "from pvdm_jax import cli; cli.make_parser().format_help()",
        "from pvdm_jax import cli\ntry: cli.main(['sample', '--help'])\nexcept SystemExit: pass",
    ],
)
def test_the_top_of_the_package_is_light(statement):
    program = f"import sys\n{statement}\nprint('modules:', *sys.modules)"
    loaded = set(run(program).rpartition("modules:")[2].split())
    assert loaded & {"numpy", "jax", "jaxlib", "flax", "optax", "einops", *DATA_STACK} == set()


def test_a_configuration_is_read_before_jax_is_imported():
    """`pvdm plan` chooses its platform by an environment variable that jax reads when it is imported."""
    program = """
import argparse, sys
from pvdm_jax.cli.arguments import load_config
load_config(argparse.Namespace(config="ucf101:l", overrides=[]))
print("jax" in sys.modules)
"""
    assert run(program).split()[-1] == "False"


def test_the_command_runs():
    done = subprocess.run([sys.executable, "-m", "pvdm_jax.cli", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f"pvdm_jax {pvdm_jax.__version__}\n"


def test_one_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+", pvdm_jax.__version__)
    assert f"\nversion: {pvdm_jax.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_the_installed_version_is_the_packages():
    """setup.py reads it from the source."""
    try:
        installed = importlib.metadata.version("pvdm_jax")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("pvdm_jax is not installed here, only its source is on the path")
    assert installed == pvdm_jax.__version__


def test_the_tests_that_the_docs_name_exist():
    for page in (ROOT / "docs").glob("*.md"):
        for path, name in re.findall(r"([\w/]+\.py)::(\w+)", page.read_text(encoding="utf-8")):
            tests = ROOT / "tests" / path.removeprefix("tests/")
            assert f"def {name}(" in tests.read_text(encoding="utf-8"), f"{page.name} names {path}::{name}"
