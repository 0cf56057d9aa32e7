"""launch/accelerator.sh with stand-ins for what it runs: arguments, time limits, failures, the table of all parts."""

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "launch" / "accelerator.sh"
FAILING = "def f():\n    raise KeyError('no such device')\nf()"


@pytest.fixture(scope="module")
def modules():
    """The modules of launch/accelerator, which import each other by these names."""
    folder = str(ROOT / "launch" / "accelerator")
    names = ("parts", "jobs", "wheels", "results")
    sys.path.insert(0, folder)
    try:
        found = {name: importlib.import_module(name) for name in names}
        spec = importlib.util.spec_from_file_location("accelerator_main", f"{folder}/__main__.py")
        found["main"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found["main"])
        yield found
    finally:
        sys.path.remove(folder)
        for name in names:
            sys.modules.pop(name, None)


@pytest.fixture
def runner(modules, tmp_path):
    """make(seconds) -> a runner of parts, and the lines that it says."""

    def make(seconds):
        said = []
        log = tmp_path / "job.log"
        return modules["parts"].Runner(seconds, folder=tmp_path, log=log, environment=os.environ, say=said.append), said

    return make


@pytest.fixture
def context(modules, tmp_path):
    def make(**values):
        folders = {"work": tmp_path / "work", "out": tmp_path / "out"}
        return modules["jobs"].Context(**{"platform": "gpu", "seconds": 240.0, **folders, **values})

    return make


def python(code):
    return [sys.executable, "-c", code]


def test_a_part_that_fails_or_takes_too_long_does_not_keep_the_next_from_running(modules, runner, tmp_path):
    parts = modules["parts"]
    made, said = runner(62)
    made.run(
        [
            parts.Part("slow", 2, program=python("import time; time.sleep(60)")),
            parts.Part("fine", 20, program=python("print('4 passed')"), note=str.strip),
            parts.Part("failing", 20, program=python(FAILING)),
            parts.Part("unmade", 10, commands=lambda left: 1 / 0),
            parts.Part("absent", 0, skipped="there is none"),
            parts.Part("last", 10, program=python("print(6)")),
        ]
    )
    outcomes = {row.name: row.outcome for row in made.rows}
    found = {"slow": "time limit", "fine": "ok", "failing": "failed", "unmade": "failed", "absent": "skipped"}
    assert outcomes == {**found, "last": "ok"}
    text = "\n".join(said)
    assert "Traceback (most recent call last)" in text and "in f" in text and "KeyError: 'no such device'" in text
    assert "ZeroDivisionError" in text
    table = parts.table(made.rows)
    assert table.startswith("| part ") and all(f"\n| {name} " in table for name in outcomes)
    assert "4 passed" in table and "exit code 1: KeyError: 'no such device'" in table
    assert "KeyError: 'no such device'" in (tmp_path / "job.log").read_text()


def test_commands_run_in_one_process_and_in_another_after_a_crash(modules, runner, tmp_path, monkeypatch):
    """Of four commands one is refused, and one takes its process with it: each has its row."""
    parts = modules["parts"]
    crash = "import os, sys\nsys.modules['jax'] = __import__('gc')\nsys.modules['jax'].clear_caches = lambda: None\n"
    crash += "def main(argv):\n    print(argv, os.getpid())\n    if argv == ['crash']: os.abort()\n"
    crash += "    if argv == ['trace']: raise ValueError('a defect')\n    return 2 * (argv == ['refused'])\n"
    package = tmp_path / "stand_in" / "pvdm_jax"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "cli.py").write_text(crash)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    made, said = runner(60)
    names = ("refused", "trace", "crash", "fine")
    made.run([parts.Part("all", 60, commands=lambda left: {name: [name] for name in names})])
    outcomes = {row.name: (row.outcome, row.note[:12]) for row in made.rows}
    assert outcomes == {
        "all: refused": ("failed", "exit code 2:"),
        "all: trace": ("failed", "exit code 1:"),
        "all: crash": ("failed", "exit code -6"),
        "all: fine": ("ok", ""),
    }
    assert "ValueError: a defect" in "\n".join(said)


@pytest.mark.parametrize("job, minutes", {"smoke": 4, "measure": 6, "train": 9}.items())
@pytest.mark.parametrize("platform", ["gpu", "cpu"])
def test_the_parts_of_a_job_fit_into_its_time_and_are_commands(modules, context, job, minutes, platform):
    from pvdm_jax.cli.main import make_parser

    jobs = modules["jobs"]
    assert jobs.MINUTES[job] == minutes
    made = context(platform=platform, official=ROOT)
    made.work.mkdir()
    parts = jobs.make_parts(job, made)
    assert sum(part.seconds for part in parts) == pytest.approx(240)
    assert len({part.name for part in parts}) == len(parts)
    for part in parts:
        for name, argv in part.commands(60.0).items() if part.commands else ():
            args, rest = make_parser().parse_known_args(argv)
            assert args.command == argv[0], name
            assert all(text.startswith("--config.") for text in rest)
    if job == "measure":
        forward = parts[0].commands(60.0)["benchmark"]
        assert ("--size=l" in forward) == (platform == "gpu") and "--dtype=bfloat16" in forward


def test_training_takes_as_many_updates_as_fit(modules, context):
    """A run of 100 s, of which 10 are kept for saving and 24 for all but updates of 0.1 s."""
    jobs = modules["jobs"]
    assert jobs.steps_that_fit(100.0, overhead=20.0, step_seconds=0.1) == 580
    assert jobs.steps_that_fit(10.0, overhead=60.0, step_seconds=0.1) == 20
    made = context(data=ROOT, config="video_folder", overrides=("--config.denoiser.num_classes=3",))
    made.work.mkdir()
    _, training, *_ = jobs.make_parts("train", made)
    assert not any("steps" in text for text in training.commands(100.0)["train"])  # nothing is known of the pace
    jobs.make_parts("train", made)[0].commands(100.0)
    metrics = made.work / "pace_autoencoder" / "autoencoder" / "metrics.jsonl"
    metrics.parent.mkdir(parents=True)
    metrics.write_text(
        json.dumps({"step": 50, "time/step": 0.1}) + "\n" + json.dumps({"step": 50, "eval/psnr": 9}) + "\n"
    )
    argv = training.commands(100.0)["train"]
    assert argv[:2] == ["train-autoencoder", "--config=video_folder"]
    assert f"--config.data.path={ROOT}" in argv and "--config.denoiser.num_classes=3" in argv
    (steps,) = [text for text in argv if ".steps=" in text]
    assert 780 <= int(steps.rpartition("=")[2]) <= 820


def test_the_reference_tests_exist():
    lines = (ROOT / "launch" / "accelerator" / "reference_tests.txt").read_text().splitlines()
    tests = [line for line in lines if line.startswith("tests/")]
    assert len(tests) == len(set(tests)) == 20
    for test in tests:
        path, name = test.partition("[")[0].rsplit("::", 1)
        assert f"def {name}(" in (ROOT / path.partition("::")[0]).read_text(), test


def test_wheels_of_missing_packages_are_used(modules, tmp_path):
    this = f"cp3{sys.version_info.minor}"
    names = [f"absent_thing-1.0-{this}-{this}-manylinux_2_28_x86_64", "other_thing-2.0-py3-none-any"]
    names += ["absent_too-1.0-cp27-cp27mu-linux_x86_64", "numpy-0.1-py3-none-any"]
    for name in names:
        with zipfile.ZipFile(tmp_path / f"{name}.whl", "w") as wheel:
            place = "other_thing-2.0.data/purelib/" if name.startswith("other") else ""
            wheel.writestr(f"{place}{name.split('-')[0]}.py", "VALUE = 1")
    used, refused = modules["wheels"].unpack_missing(tmp_path, tmp_path / "packages")
    assert used == ["absent_thing", "other_thing"]
    assert refused == [f"{names[2]}.whl is for cp27, this is Python 3.{sys.version_info.minor}"]
    assert (tmp_path / "packages" / "absent_thing.py").exists() and (tmp_path / "packages" / "other_thing.py").exists()


@pytest.mark.parametrize(
    "argv, variables, message",
    [
        ([], {}, "the following arguments are required: job"),
        (["race"], {}, "invalid choice: 'race' (choose from"),
        (["smoke", "--config.seed=1"], {}, "--config.seed=1 is not known; train takes"),
        (["train"], {"DATA": "/nowhere/videos"}, "DATA is /nowhere/videos, which is not a folder"),
        (["measure"], {"MINUTES": "soon"}, "MINUTES is 'soon'; it must be a number"),
        (["measure"], {"MINUTES": "0"}, "MINUTES is 0; it must be between"),
    ],
)
def test_what_cannot_work_is_refused(modules, capsys, argv, variables, message):
    with pytest.raises(SystemExit, match="^2$"):
        modules["main"].read_settings(argv, variables)
    assert message in capsys.readouterr().err


def test_variables_and_what_they_are_without(modules, tmp_path):
    read = modules["main"].read_settings
    plain = read(["train", "--config.seed=3"], {"OUT": ""})
    assert (plain.seconds, plain.config, plain.data) == (540, "demo", None)
    assert plain.overrides == ("--config.seed=3",) and plain.out == Path("runs/accelerator").absolute()
    variables = {"MINUTES": "1.5", "DATA": str(tmp_path), "OUT": str(tmp_path / "out")}
    given = read(["train"], variables)
    assert (given.seconds, given.config, given.data) == (90, "video_folder", tmp_path)
    (tmp_path / "out" / "model").mkdir(parents=True)
    with pytest.raises(SystemExit):
        read(["train"], variables)


@pytest.mark.skipif(not os.path.exists("/bin/bash"), reason="the launch scripts need bash")
def test_without_jax_the_table_says_so(tmp_path):
    """The whole script, on a Python in which jax cannot be imported. A wrong job is refused before anything starts."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "jax.py").write_text("raise ImportError('there is no jax')")
    variables = {"PYTHON": sys.executable, "OUT": str(tmp_path / "out"), "PYTHONPATH": str(tmp_path / "path")}

    def run(job):
        call = ["/bin/bash", str(SCRIPT), job]
        return subprocess.run(call, env=os.environ | variables, capture_output=True, text=True)

    assert run("race").returncode == 2 and not (tmp_path / "out").exists()
    done = run("smoke")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("| device | failed ")
    assert "ImportError: there is no jax" in done.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["smoke.json", "smoke.log", "smoke.txt"]
    assert json.loads((tmp_path / "out" / "smoke.json").read_text())["parts"][0]["outcome"] == "failed"
