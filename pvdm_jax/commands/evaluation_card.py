"""What `pvdm evaluate` does with its result."""

import pathlib
from typing import Any

import jax

from pvdm_jax.evaluation.card import card_sections, to_text, write_card
from pvdm_jax.reporting.html import write_page

PAGE_FILE = "card.html"


def write_and_print(card: dict[str, Any], output: pathlib.Path | None, *, version: str) -> None:
    """Writes the card as card.json, card.md and card.html into `output` (None: nowhere), and prints it.

    version: of this package, which the card records.
    """
    card["software"]["pvdm_jax"] = version
    if output is not None and jax.process_index() == 0:
        write_card(output, card)
        write_page(output / PAGE_FILE, f"Evaluation: {card['protocol']['name']}", card_sections(card))
    print(to_text(card))
    if output is not None:
        print(f"card: {output / 'card.json'}, card.md, {PAGE_FILE}")
