"""Measured clips: what is stored, what is measured again, and how a killed measurement is resumed."""

import numpy as np
import pytest

from pvdm_jax.evaluation.clip_measurements import measure_clips


class Clips:
    """Numbered clips that count how often they are read."""

    def __init__(self, count=10, name="a"):
        self.facts, self.reads, self._count = {"name": name, "clips": count}, [], count

    def __len__(self):
        return self._count

    def batch(self, start, stop):
        self.reads.append((start, stop))
        return np.arange(start, stop, dtype=np.uint8)[:, None]


def measure(batch):
    return {"double": 2.0 * batch, "sum": batch.sum(1)}


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("batch_size", [1, 4, 10, 30])
def test_rows_do_not_depend_on_batches(tmp_path, batch_size, ahead):
    found = measure_clips(Clips(), measure, {}, cache=tmp_path, batch_size=batch_size, read_ahead=ahead)
    np.testing.assert_array_equal(found.rows["double"], 2.0 * np.arange(10)[:, None])
    np.testing.assert_array_equal(found.rows["sum"], np.arange(10))
    assert (found.measured, found.cached) == (10, 0)


def test_a_second_measurement_finds_everything(tmp_path):
    first = measure_clips(Clips(), measure, {"space": 1}, cache=tmp_path, batch_size=4)
    again = Clips()
    second = measure_clips(again, None, {"space": 1}, cache=tmp_path, batch_size=3)
    assert again.reads == [] and (second.measured, second.cached) == (0, 10)
    for name, rows in first.rows.items():
        np.testing.assert_array_equal(second.rows[name], rows)


@pytest.mark.parametrize("clips, facts", [(Clips(name="b"), {"space": 1}), (Clips(), {"space": 2})])
def test_other_clips_or_another_measure_start_from_scratch(tmp_path, clips, facts):
    measure_clips(Clips(), measure, {"space": 1}, cache=tmp_path, batch_size=4)
    assert measure_clips(clips, measure, facts, cache=tmp_path, batch_size=4).cached == 0


def test_a_killed_measurement_is_resumed(tmp_path):
    def killed(batch):
        if batch[0, 0] >= 6:
            raise KeyboardInterrupt
        return measure(batch)

    with pytest.raises(KeyboardInterrupt):
        measure_clips(Clips(), killed, {}, cache=tmp_path, batch_size=3)
    (unfinished,) = (path.parent for path in tmp_path.rglob("00000000_*.npz"))
    (unfinished / ".00000006.npz").write_bytes(b"half a file")
    clips = Clips()
    found = measure_clips(clips, measure, {}, cache=tmp_path, batch_size=2, read_ahead=False)
    assert clips.reads == [(6, 8), (8, 10)] and found.cached == 6
    np.testing.assert_array_equal(found.rows["sum"], np.arange(10))


def test_a_larger_set_resumes_a_smaller_one(tmp_path):
    measure_clips(Clips(7), measure, {}, cache=tmp_path, batch_size=3)
    clips = Clips(10)
    found = measure_clips(clips, measure, {}, cache=tmp_path, batch_size=3, read_ahead=False)
    assert clips.reads == [(7, 10)] and found.cached == 7
    np.testing.assert_array_equal(found.rows["sum"], np.arange(10))
    fewer = measure_clips(Clips(5), None, {}, cache=tmp_path, batch_size=3)
    assert fewer.cached == 5
    np.testing.assert_array_equal(fewer.rows["sum"], np.arange(5))


def test_a_damaged_part_is_measured_again(tmp_path):
    measure_clips(Clips(), measure, {}, cache=tmp_path, batch_size=3)
    (part,) = tmp_path.rglob("00000003_*.npz")
    part.write_bytes(part.read_bytes()[:40])
    found = measure_clips(Clips(), measure, {}, cache=tmp_path, batch_size=3)
    assert found.cached == 3
    np.testing.assert_array_equal(found.rows["sum"], np.arange(10))


def test_missing_rows_are_refused(tmp_path):
    with pytest.raises(ValueError, match="2 rows of x for 4 clips"):
        measure_clips(Clips(), lambda batch: {"x": np.zeros(2)}, {}, cache=tmp_path, batch_size=4)
