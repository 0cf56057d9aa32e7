"""The card of a model folder: its weights' origin, sizes, training and numbers, as data and as a page.

`card.json` has the facts, `README.md` says the same in words. `docs/model_folder.md` has every field.
"""

import datetime
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from pvdm_jax.config import Config
from pvdm_jax.models.autoencoder import latent_spec
from pvdm_jax.storage.files import write_json, write_text
from pvdm_jax.storage.json_files import Maybe, read_json

CARD_FILE = "card.json"
PAGE_FILE = "README.md"
# The networks of a model folder, which name its files and the facts on its card.
AUTOENCODER = "autoencoder"
DENOISER = "denoiser"
SECTIONS = {"source": "Where the weights come from", "training": "Training", "numbers": "Numbers"}  # facts by network
# Facts of the whole model: one line on what it makes, the licence of the weights and of what they were trained on, and
# the command that trained it.
TEXTS = ("summary", "license", "command")
HELD_OUT = "held_out"  # how well the autoencoder reconstructs held-out clips, see `commands.familiarity`
EVALUATION = "evaluation"  # the protocol and the results of a card of `pvdm evaluate`
# Facts that a new folder copies from the folder that it is made from.
KEPT = (*SECTIONS, "notes", *TEXTS, HELD_OUT, EVALUATION)
# Facts that are read back, and the structure that they must have.
_READ = {
    "notes": Maybe([str]),
    HELD_OUT: Maybe({"clips": int, "psnr_mean": float, "psnr_median": float, "psnr_lowest_percent": float}),
    EVALUATION: Maybe({"protocol": dict, "results": {str: {"value": float}}}),
} | {name: Maybe(str) for name in TEXTS}
EXCHANGED_PLANES = (
    "This denoiser has no position embedding. Like the official one it can't tell its two motion planes apart, so "
    "about half of the clips that it samples without a previous clip have them exchanged, and would decode to garbage. "
    "`pvdm sample` checks the order with the autoencoder and corrects it (sample.plane_order=auto or confirm; "
    "keep leaves the planes as they are). Other code that samples from these weights must do the same."
)


def write_card(
    directory: pathlib.Path, facts: Mapping[str, Any], *, name: str, config: Config, parameters: Mapping[str, int]
) -> None:
    """Writes card.json and README.md into a model folder.

    facts: what is known about the weights ("source", "training", "numbers", "notes"). name: the model's name.
    parameters: how many each network has.
    """
    card = _make_card(facts, config, parameters)
    write_json(directory / CARD_FILE, card)
    write_text(directory / PAGE_FILE, _to_markdown(name, card))


def read_card(directory: pathlib.Path) -> dict[str, Any]:
    """The card of a model folder; empty if it has none."""
    path = directory / CARD_FILE
    if not path.exists():
        return {}
    card = read_json(path, _READ)
    return {name: value for name, value in card.items() if value is not None}


def network_facts(card: Mapping[str, Any], network: str) -> dict[str, dict[str, Any]]:
    """The facts of SECTIONS that a card has about one network: {"source": {network: ...}, ...}."""
    known = {section: card[section] for section in SECTIONS if isinstance(card.get(section), Mapping)}
    return {section: {network: facts[network]} for section, facts in known.items() if network in facts}


def _make_card(facts: Mapping[str, Any], config: Config, parameters: Mapping[str, int]) -> dict[str, Any]:
    """The given facts, and those that follow from the model."""
    sizes: dict[str, Any] = {}
    if AUTOENCODER in parameters:
        model, spec = config.autoencoder, latent_spec(config.autoencoder)
        sizes = {
            "clip": [model.frames, model.height, model.width, 3],
            "latent_segments": {part.name: list(part.sizes) for part in spec.parts},
            "latent_positions": spec.positions,
            "latent_channels": spec.channels,
        }
    notes = list(facts.get("notes", ()))
    if DENOISER in parameters and not config.denoiser.knows_positions and EXCHANGED_PLANES not in notes:
        notes.append(EXCHANGED_PLANES)
    derived = {
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "software": {"jax": jax.__version__},
        "sizes": sizes,
        "parameters": dict(parameters),
    }
    return derived | dict(facts) | {"notes": notes}


def _to_markdown(name: str, card: Mapping[str, Any]) -> str:
    """The card as a page."""
    parameters = [f"{network} {count:,} parameters" for network, count in card["parameters"].items()]
    parts = [f"# {name}", card.get("summary", "")] if card.get("summary") else [f"# {name}"]
    parts.append(f"A PVDM video model of pvdm_jax: {', '.join(parameters)}. Made {card['made']}.")
    if card["sizes"]:
        frames, height, width, _ = card["sizes"]["clip"]
        positions, channels = card["sizes"]["latent_positions"], card["sizes"]["latent_channels"]
        parts.append(
            f"A clip is {frames} frames of {width} x {height} pixels; its latent is {positions} positions of "
            f"{channels} channels."
        )
    for section, title in SECTIONS.items():
        if card.get(section):
            parts += [f"## {title}", "\n".join(f"- {line}" for line in _to_lines(card[section]))]
    if card.get(HELD_OUT):
        found = card[HELD_OUT]
        parts += [
            "## Which videos it knows",
            f"The autoencoder reconstructs {found['clips']} held-out clips at {found['psnr_mean']:.1f} dB (PSNR), "
            f"99 of 100 at {found['psnr_lowest_percent']:.1f} dB or better. `pvdm extend`, `reconstruct` and "
            "`evaluate` warn about videos below that, which are far from the training data.",
        ]
    if card.get(EVALUATION):
        protocol = card[EVALUATION]["protocol"].get("name", "its own")
        rows = [f"| {key} | {entry['value']:.4g} |" for key, entry in card[EVALUATION]["results"].items()]
        table = "\n".join(["| number | value |", "|---|---|", *rows])
        parts += ["## Evaluation", f"By `pvdm evaluate --protocol={protocol}`; card.json has the intervals.", table]
    if card.get("license"):
        parts += ["## Licence", card["license"]]
    if card.get("command"):
        parts += ["## How it was made", f"```\n{card['command']}\n```"]
    if card["notes"]:
        parts += ["## Notes", "\n\n".join(card["notes"])]
    parts += ["## Use", "```\n" + "\n".join(_commands(name, card["parameters"])) + "\n```"]
    return "\n\n".join(parts) + "\n"


def _to_lines(facts: Any, prefix: str = "") -> list[str]:
    """Nested facts as lines "name of the fact: value"."""
    if not isinstance(facts, Mapping):
        return [f"{prefix}: {facts}" if prefix else str(facts)]
    return [line for name, value in facts.items() for line in _to_lines(value, f"{prefix} {name}".strip())]


def _commands(name: str, parameters: Mapping[str, int]) -> list[str]:
    """The commands that use the model folder."""
    both = {AUTOENCODER, DENOISER} <= parameters.keys()
    commands = [f"pvdm sample --model={name} --output=samples --num-frames=64"] if both else []
    if AUTOENCODER in parameters:
        commands.append(f"pvdm reconstruct --model={name} --source my_videos --output=reconstructed")
    else:
        commands.append(f"pvdm convert --autoencoder=AUTOENCODER --denoiser={name} --output=BOTH")
    return commands
