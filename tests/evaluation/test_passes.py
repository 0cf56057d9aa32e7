"""Passes over clips: what is kept, what is measured again, and what a killed pass has left."""

import numpy as np
import pytest

from pvdm_jax.evaluation.passes import run_pass


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
    found = run_pass(Clips(), measure, {}, tmp_path, batch_size, ahead=ahead)
    np.testing.assert_array_equal(found.rows["double"], 2.0 * np.arange(10)[:, None])
    np.testing.assert_array_equal(found.rows["sum"], np.arange(10))
    assert (found.measured, found.found) == (10, 0)


def test_a_second_pass_finds_everything(tmp_path):
    first = run_pass(Clips(), measure, {"space": 1}, tmp_path, 4)
    again = Clips()
    second = run_pass(again, None, {"space": 1}, tmp_path, 3)
    assert again.reads == [] and (second.measured, second.found) == (0, 10)
    for name, rows in first.rows.items():
        np.testing.assert_array_equal(second.rows[name], rows)


@pytest.mark.parametrize("clips, facts", [(Clips(name="b"), {"space": 1}), (Clips(), {"space": 2})])
def test_other_clips_or_another_measure_start_anew(tmp_path, clips, facts):
    run_pass(Clips(), measure, {"space": 1}, tmp_path, 4)
    assert run_pass(clips, measure, facts, tmp_path, 4).found == 0


def test_a_killed_pass_goes_on(tmp_path):
    def killed(batch):
        if batch[0, 0] >= 6:
            raise KeyboardInterrupt
        return measure(batch)

    with pytest.raises(KeyboardInterrupt):
        run_pass(Clips(), killed, {}, tmp_path, 3)
    (unfinished,) = (path.parent for path in tmp_path.rglob("00000000_*.npz"))
    (unfinished / ".00000006.npz").write_bytes(b"half a file")
    clips = Clips()
    found = run_pass(clips, measure, {}, tmp_path, 2, ahead=False)
    assert clips.reads == [(6, 8), (8, 10)] and found.found == 6
    np.testing.assert_array_equal(found.rows["sum"], np.arange(10))


def test_a_larger_pass_goes_on_from_a_smaller_one(tmp_path):
    run_pass(Clips(7), measure, {}, tmp_path, 3)
    clips = Clips(10)
    found = run_pass(clips, measure, {}, tmp_path, 3, ahead=False)
    assert clips.reads == [(7, 10)] and found.found == 7
    np.testing.assert_array_equal(found.rows["sum"], np.arange(10))
    fewer = run_pass(Clips(5), None, {}, tmp_path, 3)
    assert fewer.found == 5
    np.testing.assert_array_equal(fewer.rows["sum"], np.arange(5))


def test_a_damaged_part_is_measured_again(tmp_path):
    run_pass(Clips(), measure, {}, tmp_path, 3)
    (part,) = tmp_path.rglob("00000003_*.npz")
    part.write_bytes(part.read_bytes()[:40])
    found = run_pass(Clips(), measure, {}, tmp_path, 3)
    assert found.found == 3
    np.testing.assert_array_equal(found.rows["sum"], np.arange(10))


def test_missing_rows_are_refused(tmp_path):
    with pytest.raises(ValueError, match="2 rows of x for 4 clips"):
        run_pass(Clips(), lambda batch: {"x": np.zeros(2)}, {}, tmp_path, 4)
