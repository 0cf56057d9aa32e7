"""How the launch scripts choose a Python: by running it, since a command on the PATH may only fail."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Answers as an old interpreter does.
OLD_PYTHON = """#!/bin/sh
case "$2" in
*platform*) echo 3.9.2 ;;
*) exit 1 ;;
esac
"""


@pytest.fixture
def commands(tmp_path):
    """An empty folder of commands; `add` puts an executable text there."""

    def add(name, text):
        path = tmp_path / name
        path.write_text(text)
        path.chmod(0o755)
        return str(path)

    return add


def find_python(tmp_path, **environment):
    """Runs find_python with only the test's own commands on the PATH."""
    variables = {"PATH": str(tmp_path), **environment}
    script = [*("/bin/bash", "-c"), ". launch/python.sh; find_python"]
    return subprocess.run(script, cwd=ROOT, env=variables, capture_output=True, text=True)


def working_python() -> str:
    return f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'


@pytest.mark.skipif(not os.path.exists("/bin/bash"), reason="the launch scripts need bash")
class TestFindPython:
    def test_takes_the_newest_that_works(self, commands, tmp_path):
        commands("python3.13", "#!/bin/sh\necho 'command not found' >&2\nexit 127\n")
        commands("python3.12", OLD_PYTHON)
        commands("python3.11", working_python())
        commands("python3", working_python())
        done = find_python(tmp_path)
        assert (done.returncode, done.stdout) == (0, "python3.11\n")

    def test_takes_the_one_that_is_named(self, commands, tmp_path):
        commands("python3", working_python())
        named = commands("my python", working_python())
        assert find_python(tmp_path, PYTHON=named).stdout == f"{named}\n"

    def test_refuses_an_old_one(self, commands, tmp_path):
        commands("python3", OLD_PYTHON)
        done = find_python(tmp_path)
        assert done.returncode != 0
        assert "needs Python 3.11 or later" in done.stderr
        assert "python3 is 3.9.2" in done.stderr
        assert "python3.13 does not run" in done.stderr

    def test_does_not_replace_the_one_that_is_named(self, commands, tmp_path):
        commands("python3", working_python())
        named = commands("old", OLD_PYTHON)
        done = find_python(tmp_path, PYTHON=named)
        assert done.returncode != 0
        assert f"{named} is 3.9.2" in done.stderr
