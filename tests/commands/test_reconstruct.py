"""The table that `pvdm reconstruct` prints."""

from pvdm_jax.commands.reconstruct import _table


def test_a_name_with_line_breaks_takes_one_line_of_the_table():
    numbers = {"psnr": 20.0, "still_psnr": 15.0}
    records = [{"file": name, "clips": 2, **numbers} for name in ("plain", "two\nlines of a long name")]
    lines = _table(records, numbers).splitlines()
    assert len(lines) == 4 and lines[2].startswith("two\\nlines of a long name  ")
    assert len({len(line) for line in lines}) == 1
