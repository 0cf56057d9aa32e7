"""Cards: the numbers of an evaluation with everything they depend on, and whether two of them can be compared.

A card is one JSON object. `results` has the numbers, `protocol` the complete protocol, `networks` the files of the
networks, `real` and `generated` which clips were measured (hashes of the files and of the chosen windows).
"""

import datetime
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
from flax import traverse_util

from pvdm_jax.config import ConfigError, config_to_dict, require
from pvdm_jax.config.evaluation import ProtocolConfig
from pvdm_jax.evaluation import yardstick_numbers
from pvdm_jax.evaluation.reconstruction import RECONSTRUCTION_NUMBERS
from pvdm_jax.reporting.sections import Section, Table, Text
from pvdm_jax.storage.files import write_json, write_text
from pvdm_jax.storage.json_files import Maybe, read_json

VERSION = 1
CARD_FILE = "card.json"
# What comparing two cards reads of them.
_READ = {
    "results": {str: {"value": float, "low": Maybe(float), "high": Maybe(float), "better": str}},
    "protocol": dict,
    "networks": {str: dict},
    "real": {str: dict},
    "generated": {str: dict},
}
TITLES = {name: title for name, (_, title) in RECONSTRUCTION_NUMBERS.items()} | {
    "inception_score": "Inception score (C3D)",
    "seam_score": "seam score of long videos (1: none)",
    "cut_border": "cut detector (TransNetV2): probability at the borders of clips",
    "cut_inside": "cut detector (TransNetV2): probability inside clips",
    "real_cut_border": "cut detector (TransNetV2): real videos, at the places of borders",
    "real_cut_inside": "cut detector (TransNetV2): real videos, at the places inside",
}
# The places in long videos that distances are measured at, as titles name them.
_DISTANCE = re.compile(
    r"(?:(reconstruction|real|noise)_)?(fvd|(?:frechet|kernel)_\w+?)_(\d+)(?:_(clip_\d+|slope|astride|border_excess))?"
)
_PLACES = {
    "slope": ", change per clip of long videos",
    "astride": ", astride a clip border",
    "border_excess": ", astride a clip border, minus that of the clip before it",
}


def make_card(
    what: Mapping[str, str],
    protocol: ProtocolConfig,
    *,
    networks: Mapping[str, Any],
    real: Mapping[str, Any],
    generated: Mapping[str, Any],
    results: Mapping[str, Any],
    not_measured: Mapping[str, str],
    passes: Mapping[str, Any],
) -> dict[str, Any]:
    """The card of an evaluation.

    what: names of the evaluated sets or model. networks, real, generated: the facts of each network and of each set of
    clips. results: the numbers. not_measured: the reason for each number that is missing. passes: the time that each
    measurement took.
    """
    device = jax.devices()[0]
    return {
        "card": VERSION,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "of": dict(what),
        "results": dict(results),
        "not_measured": dict(not_measured),
        "protocol": config_to_dict(protocol),
        "networks": dict(networks),
        "real": dict(real),
        "generated": dict(generated),
        "passes": dict(passes),
        "software": {"jax": jax.__version__, "devices": f"{jax.device_count()} x {device.device_kind}"},
    }


def write_card(folder: pathlib.Path, card: Mapping[str, Any]) -> None:
    """Writes card.json and card.md."""
    write_json(folder / CARD_FILE, card)
    write_text(folder / "card.md", to_markdown(card))


def read_card(path: pathlib.Path) -> dict[str, Any]:
    """Reads a card.json, or the one in a folder. Raises FileNotFoundError, or ConfigError if the file is not a card."""
    path = path / CARD_FILE if path.is_dir() else path
    if read_json(path, dict).get("card") != VERSION:
        raise ConfigError(f"{path} is not a card of `pvdm evaluate` (version {VERSION})")
    card = read_json(path, _READ)
    for name, entry in card["results"].items():
        low, high = entry.setdefault("low", None), entry.setdefault("high", None)
        require((low is None) == (high is None), f"{path}: results.{name}", entry, "it needs both bounds, or neither")
    return card


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """The differences in how the numbers of two cards were made, one line per difference.

    Compares the protocols, the networks, the real clips, and how many videos were generated and how. File names and the
    evaluated videos or models may differ.
    """

    def comparable(card: Mapping[str, Any]) -> dict[str, Any]:
        protocol = {name: value for name, value in card["protocol"].items() if name != "name"}
        real = {name: _without(facts, ("folder", "files", "skipped")) for name, facts in card["real"].items()}
        own = ("folder", "files", "skipped", "windows", "sha256", "weights", "size", "resize", "model")
        generated = {name: _without(facts, own) for name, facts in card["generated"].items()}
        networks = {name: _without(facts, ("file",)) for name, facts in card["networks"].items()}
        tree = {"protocol": protocol, "networks": networks, "real": real, "generated": generated}
        return traverse_util.flatten_dict(json.loads(json.dumps(tree)), sep=".")

    first, second = comparable(a), comparable(b)
    return [
        f"{name}: {_short(first.get(name, 'absent'))} and {_short(second.get(name, 'absent'))}"
        for name in sorted(first.keys() | second.keys())
        if first.get(name, "absent") != second.get(name, "absent")
    ]


def compare(a: Mapping[str, Any], b: Mapping[str, Any], names: tuple[str, str] = ("A", "B")) -> str:
    """A table of both cards' numbers. Raises ConfigError, with the `differences`, if they can't be compared."""
    lines = differences(a, b)
    if lines:
        raise ConfigError("these cards can't be compared; they differ in " + "; ".join(lines))
    rows = [("", *names, "difference")]
    for name in a["results"].keys() & b["results"].keys():
        first, second = a["results"][name], b["results"][name]
        rows.append((title(name), _number(first), _number(second), _verdict(first, second, names)))
    rows[1:] = sorted(rows[1:])
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def title(name: str) -> str:
    """The name of a result, for people."""
    if name in TITLES:
        return TITLES[name]
    if known := yardstick_numbers.title(name):
        return known
    found = _DISTANCE.fullmatch(name)
    if found is None:
        return name
    of, kind, frames, place = found.groups()
    prefix = {None: "", "real": "other real clips: "}.get(of, f"{of} ")
    network = kind.partition("_")[2]
    distance = {"fvd": "FVD", "kernel": f"kernel distance in {network} features"}.get(kind.partition("_")[0])
    distance = distance or f"Frechet distance in {network} features"
    note = " (not FVD)" if kind.startswith("frechet") else ""
    where = _PLACES.get(place, f", {(place or '').replace('_', ' ')} of long videos") if place else ""
    return f"{prefix}{distance}, {frames} frames{note}{where}"


def result_rows(card: Mapping[str, Any]) -> list[tuple[str, str, str, str, str, str]]:
    """A row of RESULT_HEADER for each result."""
    rows = []
    for name, entry in card["results"].items():
        interval = "" if entry["low"] is None else f"{entry['low']:.4g} to {entry['high']:.4g}"
        fewer = ", ".join(f"{count}: {value:.4g}" for count, value in entry["by_count"][:-1])
        unlimited = "" if entry["unlimited"] is None else f"{entry['unlimited']:.4g}"
        bounds = yardstick_numbers.bounds(name, card["results"])
        beside = "; ".join(f"{called} {value:.4g}" for called, value in bounds)
        rows.append((title(name), f"{entry['value']:.4g}", interval, beside, fewer, unlimited))
    return rows


def protocol_rows(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Everything the numbers depend on, as (name, value)."""
    parts = {name: card[name] for name in ("protocol", "networks", "real", "generated", "software")}
    flat = traverse_util.flatten_dict(json.loads(json.dumps(parts)), sep=".")
    return [(name, _text(value)) for name, value in flat.items()]


def pass_rows(card: Mapping[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """A row of PASS_HEADER for each pass over clips."""
    return [
        (name, str(p["clips"]), f"{p['seconds']:.1f}", f"{p['seconds_in_network']:.1f}", str(p["found_in_cache"]))
        for name, p in card["passes"].items()
    ]


RESULT_HEADER = ("measure", "value", "95 % interval", "beside it", "with fewer samples", "unlimited samples (fit)")
PASS_HEADER = ("pass", "clips", "seconds", "of these in networks", "clips found in the cache")


def to_text(card: Mapping[str, Any]) -> str:
    """The numbers, one per line, each with its interval and what stands beside it."""
    rows = result_rows(card)
    width = max((len(row[0]) for row in rows), default=0)
    lines = (
        f"{row[0]:{width}}  {row[1]}{f'  ({row[2]})' if row[2] else ''}{f'; {row[3]}' if row[3] else ''}"
        for row in rows
    )
    return "\n".join(lines)


def to_markdown(card: Mapping[str, Any]) -> str:
    """The card as a page of Markdown."""
    of = ", ".join(f"{name} {value}" for name, value in card["of"].items())
    parts = [f"# Evaluation: {card['protocol']['name']}", f"Of {of}. Made {card['made']}."]
    parts.append(_table(RESULT_HEADER, result_rows(card)))
    if card["not_measured"]:
        parts.append("Not measured:")
        parts.append("\n".join(f"- {name}: {reason}" for name, reason in card["not_measured"].items()))
    parts += ["## What the numbers depend on", _table(("line", "value"), protocol_rows(card))]
    parts += ["## Time", _table(PASS_HEADER, pass_rows(card))]
    return "\n\n".join(parts) + "\n"


def _table(header: tuple[str, ...], rows: list) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _number(entry: Mapping[str, Any]) -> str:
    interval = "" if entry["low"] is None else f" ({entry['low']:.4g} to {entry['high']:.4g})"
    return f"{entry['value']:.4g}{interval}"


def _verdict(first: Mapping[str, Any], second: Mapping[str, Any], names: tuple[str, str]) -> str:
    if first["low"] is None or second["low"] is None:
        return ""
    if first["low"] <= second["high"] and second["low"] <= first["high"]:
        return "the intervals overlap"
    if first["better"] not in ("lower", "higher"):
        return "the intervals are apart"
    better = names[(first["value"] < second["value"]) != (first["better"] == "lower")]
    return f"{better} is better"


def _without(facts: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name not in names}


def _short(value: Any) -> str:
    text = _text(value)
    return f"{text[:12]}..." if len(text) == 64 else text


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def card_sections(card: Mapping) -> list[Section]:
    """The sections of a report that show a card: its numbers, everything they depend on, and the time they took."""
    of = ", ".join(f"{name} {value}" for name, value in card["of"].items())
    missing = [f"Not measured: {name}. {reason}." for name, reason in card["not_measured"].items()]
    return [
        Text("\n\n".join([f"Of {of}. Made {card['made']}.", *missing])),
        Table(RESULT_HEADER, result_rows(card), "Intervals are of other draws of clips, not of trainings."),
        Table(("the numbers depend on", ""), protocol_rows(card)),
        Table(PASS_HEADER, pass_rows(card)),
    ]
