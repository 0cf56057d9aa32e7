"""Pages: complete, self-contained HTML whose videos, numbers and curves are those that went in."""

import base64
import html.parser
import json
import re

import numpy as np
import pytest
from read_frames import read_video

from pvdm_jax.reporting.charts import MAX_POINTS
from pvdm_jax.reporting.html import write_page
from pvdm_jax.reporting.sections import Code, Curves, Items, Table, Text, Videos, metric_curves
from pvdm_jax.storage.run_folder import read_metrics

VOID = {"meta", "line", "polyline"}


class Page(html.parser.HTMLParser):
    """Collects elements with their attributes and text; fails on tags that aren't closed in order."""

    def __init__(self, source: str):
        super().__init__()
        self.elements, self._open = [], []
        self.feed(source)
        assert not self._open

    def handle_starttag(self, tag, attributes):
        element = {"tag": tag, "text": "", **dict(attributes)}
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.elements.append({"tag": tag, "text": "", **dict(attributes)})

    def handle_endtag(self, tag):
        assert self._open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self._open:
            element["text"] += data

    def all(self, tag, **attributes):
        return [e for e in self.elements if e["tag"] == tag and attributes.items() <= e.items()]


@pytest.fixture
def page(tmp_path):
    def write(*sections):
        path = tmp_path / "new" / "report.html"
        write_page(path, "A <title>", sections)
        assert [file.name for file in path.parent.iterdir()] == ["report.html"]
        return Page(path.read_text(encoding="utf-8"))

    return write


def moving_square(side: int, frames: int = 6) -> np.ndarray:
    video = np.full((frames, side, side, 3), 20, np.uint8)
    for t in range(frames):
        video[t, 4:10, 2 + t : 8 + t] = (60, 200, 80)
    return video


def test_nothing_comes_from_outside(page):
    written = page(
        Text("One.\n\nTwo & three.", heading="Parts <1>"),
        Table(["a"], [[1]]),
        Videos("moving", [("v", moving_square(16))]),
        Curves("loss", {"l": ([1, 2], [3, 4])}),
        Code(["pvdm demo <x>", "  --workdir=run"]),
    )
    for element in written.elements:
        assert element["tag"] not in ("script", "link", "iframe", "img")
        assert element.get("src", "data:").startswith("data:") and element.get("href", "#").startswith("#")
    assert not re.search(r"url\(|@import|http", written.all("style")[0]["text"])
    assert written.all("h1")[0]["text"] == written.all("title")[0]["text"] == "A <title>"
    assert [p["text"] for p in written.all("p")] == ["One.", "Two & three."]
    assert written.all("h2")[0]["text"] == "Parts <1>"
    assert written.all("a")[0]["href"] == "#" + written.all("h2")[0]["id"]
    assert written.all("code")[0]["text"] == "pvdm demo <x>\n  --workdir=run"


@pytest.mark.parametrize("side, scale, factor", [(16, 0, 8), (48, 0, 3), (16, 2, 2), (130, 0, 1)])
def test_videos_play_what_went_in(page, side, scale, factor):
    video = moving_square(side)
    written = page(Videos("A caption", [("first", video), ("second", video[::-1])], fps=4, scale=scale))
    players = written.all("video")
    assert [player["aria-label"] for player in players] == ["first", "second"]
    for player, frames in zip(players, (video, video[::-1]), strict=True):
        assert {"autoplay", "loop", "muted", "playsinline", "controls"} <= player.keys()
        kind, data = player["src"].split(",")
        assert kind == "data:video/mp4;base64"
        shown = read_video(base64.b64decode(data))
        assert shown.shape == (len(frames), side * factor, side * factor, 3)
        assert (player["width"], player["height"]) == (str(side * factor), str(side * factor))
        middles = shown[:, factor // 2 :: factor, factor // 2 :: factor]
        assert np.abs(middles.astype(int) - frames).mean() < 4
    assert written.all("figcaption")[0]["text"] == "A caption"


def test_table(page):
    rows = [["real <b>", 0.45123, 1234], ["noise", np.float32(237.4), np.int64(5)], ["none", "not run", 0]]
    written = page(Table(["set", "distance", "clips"], rows, caption="One & two"))
    cells = [cell["text"] for cell in written.all("td")]
    assert cells == ["real <b>", "0.4512", "1,234", "noise", "237.4", "5", "none", "not run", "0"]
    numbers = [cell["text"] for cell in written.all("td", **{"class": "number"})]
    assert numbers == ["0.4512", "1,234", "237.4", "5", "not run", "0"]
    assert [th.get("class") for th in written.all("th")] == [None, "number", "number"]
    assert written.all("figcaption")[0]["text"] == "One & two"


def test_lists_and_lists_to_unfold(page):
    written = page(Items(["one <1>", "two"]), Items(["three"], summary="More"))
    assert [item["text"] for item in written.all("li")] == ["one <1>", "two", "three"]
    assert written.all("summary")[0]["text"] == "More"
    assert written.all("details")[0]["text"] == "Morethree"


def test_table_that_does_not_fit_is_refused(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("the older report")
    with pytest.raises(ValueError, match=r"has 2 cells, \['x', 1\]; its header has 3"):
        write_page(path, "t", [Table(["a", "b", "c"], [["x", 1]])])
    assert path.read_text() == "the older report"


def points(polyline: dict) -> np.ndarray:
    return np.array([pair.split(",") for pair in polyline["points"].split()], float)


def test_curves_are_to_scale(page):
    steps = np.arange(0, 1001, 100)
    written = page(Curves("Losses", {"falling": (steps, 10 - steps / 100), "flat <1>": (steps, 0 * steps + 5)}))
    falling, flat = (points(line) for line in written.all("polyline"))
    np.testing.assert_allclose(np.diff(falling[:, 0]), np.diff(falling[:, 0])[0], atol=0.11)
    np.testing.assert_allclose(np.diff(falling[:, 1]), np.diff(falling[:, 1])[0], atol=0.11)
    assert falling[-1, 1] > falling[0, 1]  # y grows downwards
    np.testing.assert_allclose(flat[:, 1], falling[5, 1], atol=0.11)
    texts = [text["text"] for text in written.all("text")]
    assert texts == ["0", "2", "4", "6", "8", "10", "0", "200", "400", "600", "800", "1,000", "value", "step"]
    assert [span["text"] for span in written.all("span")] == ["falling", "flat <1>"]
    marks = [float(line["y1"]) for line in written.all("line")]
    np.testing.assert_allclose([marks[0], marks[-1]], [falling[-1, 1], falling[0, 1]], atol=0.11)


def test_logarithmic_axis(page):
    written = page(Curves("c", {"loss": ([0, 1, 2, 3], [1000, 10, 0.1, 0.001])}, log_y=True, y_label="loss"))
    drops = np.diff(points(written.all("polyline")[0])[:, 1])
    np.testing.assert_allclose(drops, drops[0], atol=0.11)
    texts = [text["text"] for text in written.all("text")]
    assert {"0.001", "0.1", "10", "1,000", "loss (logarithmic)"} <= set(texts)


def test_what_cannot_be_drawn_is_left_out(page):
    curves = {"gaps": ([1, 2, 3, 4], [1.0, np.nan, -1.0, 2.0]), "nothing": ([1], [np.inf]), "lone": ([2], [1.5])}
    written = page(Curves("c", curves, log_y=True))
    assert [len(points(line)) for line in written.all("polyline")] == [2, 2]
    assert [span["text"] for span in written.all("span")] == ["gaps", "lone"]
    assert "No values yet." in page(Curves("c", {"nothing": ([], [])})).all("figure")[0]["text"]


@pytest.mark.parametrize("values", [[3.0] * 3, [0.0] * 3, [1e-12, 2e-12, 3e-12], [1e9, 2e9, 1e9], [-5, 0, 5]])
@pytest.mark.parametrize("log_y", [False, True])
def test_any_range_has_marks_inside_the_picture(page, values, log_y):
    written = page(Curves("c", {"v": ([10, 20, 30], values)}, log_y=log_y))
    if written.all("svg"):
        marks = [float(line["y1"]) for line in written.all("line")]
        assert 1 <= len(marks) <= 12 and min(marks) >= 0 and max(marks) <= 280


def test_long_curves_are_averaged(page):
    steps = np.arange(10 * MAX_POINTS)
    line = points(page(Curves("c", {"v": (steps, steps % 2)})).all("polyline")[0])
    assert len(line) == MAX_POINTS
    assert np.ptp(line[:, 1]) < 1  # zeros and ones average out


def test_read_metrics(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [{"step": 10, "loss": 2.0}, {"step": 20, "loss": 1.5, "psnr": 20.0}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 30, "lo')
    metrics = metric_curves(read_metrics(path))
    assert metrics.keys() == {"loss", "psnr"}
    assert [column.tolist() for column in metrics["loss"]] == [[10, 20], [2.0, 1.5]]
    assert [column.tolist() for column in metrics["psnr"]] == [[20], [20.0]]


@pytest.mark.parametrize("line", ["not json", "[1, 2]", '{"loss": 1.0}', "3", '{"step": 1, "x": null}', "\udcff\0"])
def test_read_metrics_names_the_line_that_it_skips(tmp_path, line, caplog):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(f'{{"step": 1}}\n{line}\n{{"step": 2}}\n'.encode(errors="surrogateescape"))
    assert read_metrics(path) == [{"step": 1}, {"step": 2}]
    assert "metrics.jsonl, line 2" in caplog.text and "1 of 3 lines are skipped" in caplog.text
    assert read_metrics(tmp_path / "missing.jsonl") == []
