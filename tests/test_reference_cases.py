"""The stored reference numbers: all of them are compared with, and no such test can be skipped."""

import types
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
CASES = sorted(path.stem for path in (TESTS / "reference").glob("*.json"))


def test_cases_are_complete():
    assert CASES == sorted(path.stem for path in (TESTS / "reference").glob("*.npz"))
    assert len(CASES) >= 15


@pytest.mark.parametrize("name", CASES)
def test_every_case_is_compared_with(name):
    sources = [path.read_text(encoding="utf-8") for path in TESTS.rglob("test_*.py") if path != Path(__file__)]
    assert any(f'"{name}"' in source and "reference" in source for source in sources)


@pytest.fixture
def conftest(request):
    plugins = request.config.pluginmanager.get_plugins()
    return next(p for p in plugins if getattr(p, "__file__", None) == str(TESTS / "conftest.py"))


@pytest.mark.parametrize(
    "fixtures, skipped, outcome",
    [(["reference"], True, "failed"), (["reference"], False, "passed"), ([], True, "skipped")],
)
def test_a_skipped_comparison_fails(conftest, fixtures, skipped, outcome):
    report = types.SimpleNamespace(skipped=skipped, outcome="skipped" if skipped else "passed", longrepr="no network")
    assert conftest.fail_if_skipped(fixtures, report).outcome == outcome
