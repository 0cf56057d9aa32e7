"""Charts of their own: axes that mark round values, and SVG files that other programs read."""

import xml.etree.ElementTree as xml

import numpy as np
import pytest

from pvdm_jax.reporting.charts import Axis, Chart, colour_class, plain_number, si_number

SVG = "{http://www.w3.org/2000/svg}"


def test_axes_mark_round_values_and_decades():
    assert Axis([0, 1000]).ticks == [0, 200, 400, 600, 800, 1000]
    assert Axis([30, 50]).ticks == [30, 35, 40, 45, 50]
    np.testing.assert_allclose(Axis([1, 1e4], log=True).ticks, [1, 10, 100, 1e3, 1e4])
    np.testing.assert_allclose(Axis([1, 100], log=True).ticks, [1, 2, 5, 10, 20, 50, 100])
    assert Axis([10, 1000], log=True).fraction(100) == pytest.approx(0.5)


def test_a_file_has_rules_along_logarithmic_axes():
    chart = Chart(Axis([1, 1e3], log=True), Axis([1, 1e6], log=True), x_label="x <1>", y_label="y", number=si_number)
    chart.polyline([(1, 1), (1000, 1e6)], "ink")
    chart.dot(*chart.place(10, 1e3), colour_class(7))
    root = xml.fromstring(chart.file())
    rules = [line.attrib for line in root.iter(f"{SVG}line")]
    assert sum(rule["x1"] == rule["x2"] for rule in rules) == 4 and sum(rule["y1"] == rule["y2"] for rule in rules) == 7
    words = [text.text for text in root.iter(f"{SVG}text")]
    assert {"1", "10", "100", "1 k", "1 M", "x <1>", "y"} <= set(words)
    dot = root.find(f"{SVG}circle")
    assert dot.get("class") == "c1"
    left, right = (float(pair.split(",")[0]) for pair in root.find(f"{SVG}polyline").get("points").split())
    assert float(dot.get("cx")) == pytest.approx(left + (right - left) / 3, abs=0.1)


def test_numbers_on_axes():
    assert [plain_number(value) for value in (1000, 0.001, 1e9)] == ["1,000", "0.001", "1e+09"]
    assert [si_number(value) for value in (2e10, 1e15, 0.5)] == ["20 G", "1 P", "0.5"]
