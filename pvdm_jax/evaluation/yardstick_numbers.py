"""Names and titles of the numbers that the measure "shapes" adds to a card, and the bounds of all numbers.

A bound is another number of the same card: a bad bound, which something worthless reaches, or a good one, which nothing
can be expected to exceed. A number without its bounds says little.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

CLIPS_OF_LONG = (1, 2, 4, 8, 16, 32, 64)  # clips of long videos that the detector judges
RATES = ("colours", "kinds", "sizes")  # what bodies keep (see `bodies.kept`)
BODIES = ("stranger", "reconstructed", "real")  # the clips whose bodies are measured beside the sampled next clip

_STRANGER, _CEILING = "another video's clip", "the autoencoder's reconstruction"
_WHO = {"repeat": "repeating the last frame", "stranger": _STRANGER, "reconstructed": _CEILING, "real": "the real clip"}
_WHAT = {"colours": "all colours kept, none added", "kinds": "kinds of bodies kept", "sizes": "sizes of bodies kept"}

TITLES = {
    "next_psnr": "continuation: PSNR of the sampled next clip, dB",
    "repeat_psnr": "PSNR of repeating the last frame, dB",
    "next_ceiling": "PSNR of the true next clip's reconstruction, dB",
    "shapes_real": "detector's rate: real clips",
    "shapes_reconstructed": "detector's rate: reconstructed clips",
    "shapes_generated": "detector's rate: unconditional clips",
    "shapes_next": "detector's rate: sampled next clips",
    "shapes_repeat": "detector's rate: the last frame repeated",
    "seam_next": "seam from the real to the sampled next clip (1: none)",
    "seam_real": "seam of real long videos",
    "seam_real_next": "seam from the real to the real next clip",
    "seam_stranger": "seam from the real clip to another video's clip",
    "loss_given_previous": "denoiser's loss given the previous clip",
    "loss_unconditional": "denoiser's loss without it",
    "loss_of_zero": "loss of always answering 0",
}


class Bound(NamedTuple):
    """What stands beside a number: the name of another number of the card, and what it is called there."""

    number: str
    called: str


_EVERY_SHAPE = (Bound("shapes_repeat", "a frozen frame"), Bound("shapes_real", "real clips"))
# (a pattern of names, the bad bound, the good bound); the first pattern that matches counts.
_BOUNDS: tuple[tuple[str, Bound | None, Bound | None], ...] = (
    ("psnr", Bound("still_psnr", "each clip's mean as a still"), None),
    ("next_psnr", Bound("repeat_psnr", _WHO["repeat"]), Bound("next_ceiling", "the autoencoder's ceiling")),
    (
        r"position_error_(\d+)",
        Bound(r"repeat_position_error_\1", _WHO["repeat"]),
        Bound(r"reconstructed_position_error_\1", _CEILING),
    ),
    (
        r"next_(\w+)_kept",
        Bound(r"stranger_\1_kept", _STRANGER),
        Bound(r"real_\1_kept", "found in the real clip"),
    ),
    ("shapes_(generated|next|reconstructed)|shapes_long_.*", *_EVERY_SHAPE),
    ("seam_next", Bound("seam_stranger", _STRANGER), Bound("seam_real_next", "real videos")),
    ("seam_score", Bound("seam_stranger", "clips of different videos"), Bound("seam_real", "real videos")),
    (r"(cut_\w+)", None, Bound(r"real_\1", "real videos")),
    ("loss_given_previous", Bound("loss_unconditional", "without the previous clip"), None),
    ("loss_unconditional", Bound("loss_of_zero", "always answering 0"), None),
    (
        r"(?:reconstruction_)?((?:frechet|fvd|kernel)_\w+)",
        Bound(r"noise_\1", "noise"),
        Bound(r"real_\1", "other real clips"),
    ),
)


def title(name: str) -> str | None:
    """The readable name of a number of "shapes"; None for any other name."""
    if name in TITLES:
        return TITLES[name]
    if match := re.fullmatch(r"shapes_long_(\d+)", name):
        return f"detector's rate: clip {match[1]} of long videos"
    if match := re.fullmatch(r"(?:(repeat|stranger|reconstructed|real)_)?position_error_(\d+)", name):
        return f"position error in frame {match[2]} of {_WHO.get(match[1], 'the sampled next clip')}, pixels"
    if match := re.fullmatch(r"(next|stranger|reconstructed|real)_(colours|kinds|sizes)_kept", name):
        return f"{_WHAT[match[2]]}: {_WHO.get(match[1], 'the sampled next clip')}"
    return None


def bounds(name: str, results: Mapping[str, Any]) -> list[tuple[str, float]]:
    """What stands beside a number of a card, as (what it is called, value): the bad bound, then the good one.

    results: the card's. A bound that the card lacks is skipped.
    """
    for pattern, *both in _BOUNDS:
        if match := re.fullmatch(pattern, name):
            named = [(match.expand(bound.number), bound.called) for bound in both if bound is not None]
            return [(called, results[number]["value"]) for number, called in named if number in results]
    return []


def sentence(name: str, results: Mapping[str, Any]) -> str:
    """A number with its interval and its bounds: "19.1 [18.8, 19.4]; repeating the last frame 16.3; ..."."""
    entry = results[name]
    interval = "" if entry["low"] is None else f" [{entry['low']:.3g}, {entry['high']:.3g}]"
    beside = [f"; {called} {value:.3g}" for called, value in bounds(name, results)]
    return f"{entry['value']:.3g}{interval}{''.join(beside)}"
