"""What `pvdm prepare` did: counts, classes, splits, and every skipped video with the reason."""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

from pvdm_jax.data.dataset_files import SUMMARY
from pvdm_jax.data.folders import DATASET_SPLITS
from pvdm_jax.data.layouts import Listing
from pvdm_jax.storage.files import format_bytes

SHOWN = 20  # classes and skipped videos that the text names; the summary's file has all


@dataclasses.dataclass(frozen=True)
class Summary:
    """What `prepare` did."""

    count: int  # videos written
    frames: int
    seconds: float  # of video, where the frame rate is known
    bytes: int  # of the records
    layout: str
    storage: str
    splits: dict[str, int]  # videos of each split
    classes: dict[str, int]  # videos of each class
    skipped: dict[str, str]  # name: reason

    def __str__(self) -> str:
        length = f"{self.seconds / 3600:.1f} hours" if self.seconds >= 3600 else f"{self.seconds:.0f} seconds"
        size = format_bytes(self.bytes)
        lines = [f"{self.count} videos, {self.frames} frames, {length}, {size} (layout {self.layout})"]
        if len(self.splits) > 1 or "train" not in self.splits:
            lines.append("splits: " + ", ".join(f"{name} ({count})" for name, count in self.splits.items()))
        if self.classes:
            names = [f"{name} ({count})" for name, count in self.classes.items()]
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            lines.append(f"{len(names)} classes: {', '.join(names[:SHOWN])}{more}")
        lines += [f"skipped: {name}: {reason}" for name, reason in list(self.skipped.items())[:SHOWN]]
        if len(self.skipped) > SHOWN:
            lines.append(f"skipped: {len(self.skipped) - SHOWN} more; {SUMMARY} names them all")
        return "\n".join(lines)


def summarize(
    listing: Listing, storage: str, splits: Sequence[str], outcomes: Sequence[dict[str, Any]], classes: Sequence[str]
) -> Summary:
    """The summary of all shards, from each shard's split and outcome (see `shards.write_shard`)."""
    videos = [video for outcome in outcomes for video in outcome["videos"]]
    labels = collections.Counter(classes[video["label"]] for video in videos if video["label"] >= 0)
    counts: collections.Counter[str] = collections.Counter()
    skipped = dict(listing.skipped)
    for split, outcome in zip(splits, outcomes, strict=True):
        counts[split] += len(outcome["videos"])
        skipped |= outcome["skipped"]
    return Summary(
        count=len(videos),
        frames=sum(video["frames"] for video in videos),
        seconds=sum(video["frames"] / video["fps"] for video in videos if video["fps"] > 0),
        bytes=sum(outcome["bytes"] for outcome in outcomes),
        layout=listing.layout,
        storage=storage,
        splits={name: counts[name] for name in DATASET_SPLITS if counts[name]},
        classes=dict(sorted(labels.items())),
        skipped=skipped,
    )
