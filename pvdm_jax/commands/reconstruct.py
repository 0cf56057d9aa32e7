"""What `pvdm reconstruct` does with a trained autoencoder: writes videos beside their reconstructions, and PSNRs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pvdm_jax.commands import familiarity, output_folder
from pvdm_jax.commands.input_videos import list_video_files, read_usable
from pvdm_jax.evaluation.reconstruction import psnr, still_psnr
from pvdm_jax.inference.pipeline import PVDM
from pvdm_jax.storage.files import write_json
from pvdm_jax.video.defaults import DEFAULT_FORMATS
from pvdm_jax.video.files import shown

RECONSTRUCTION_FILE = "reconstruction.json"


def reconstruct(
    model: PVDM,
    sources: Sequence[Path],
    output: Path,
    *,
    max_frames: int = 128,
    formats: Sequence[str] = DEFAULT_FORMATS,
    fps: float | None = None,
) -> None:
    """Encodes and decodes each source; writes the original (left) and its reconstruction (right) as one video.

    Prints the mean PSNR of each source's clips, next to that of a still: each clip's own mean over time.
    reconstruction.json has the same numbers. Warns about sources far from the model's training data, if its card tells.

    Args:
        model: A trained model.
        sources: Video files, and folders of them.
        output: A new or empty folder.
        max_frames: Frames taken from the start of each source, in whole clips and at least one clip.
        formats: The formats to write each video in.
        fps: Frames per second of the files (None: those of the source).

    Raises ConfigError for an unknown format or a frame rate that no file can have, FileExistsError if `output` is not
    empty, VideoError if no source can be used. Single sources that can't be used are reported on stderr and skipped.
    """
    output_folder.check_formats(formats, fps)
    paths = list_video_files(sources)
    output_folder.make_new_folder(output)
    num_clips = max(1, max_frames // model.config.autoencoder.frames)
    records: list[dict] = []
    skipped: list[dict] = []
    for original in read_usable(paths, model.config, num_clips, from_end=False, skipped=skipped):
        # One clip at a time, so that videos of different lengths share one compiled program.
        decoded = np.concatenate([np.asarray(model.reconstruct(clip[None])) for clip in original.clips])
        video = np.concatenate(np.concatenate([original.clips, decoded], axis=-2))
        output_folder.write_whole(output / original.name, video, formats=formats, fps=fps or original.fps)
        values = psnr(original.clips, decoded)
        familiar = familiarity.check_video(model, shown(original.path), values)
        records.append(
            {
                "source": shown(original.path),
                "file": original.name,
                "clips": len(decoded),
                "psnr": float(values.mean()),
                "still_psnr": float(still_psnr(original.clips).mean()),
            }
            | ({} if familiar is None else {"like_training_data": familiar})
        )
    mean = {name: float(np.mean([record[name] for record in records])) for name in ("psnr", "still_psnr")}
    write_json(output / RECONSTRUCTION_FILE, {"videos": records, "mean": mean, "skipped": skipped})
    print(_table(records, mean))


def _table(records: Sequence[Mapping[str, Any]], mean: Mapping[str, float]) -> str:
    """The table that `reconstruct` prints, a line for each video whatever its name holds."""
    names = [shown(record["file"]) for record in records]
    width = max(map(len, ["mean of the videos", *names]))
    lines = [f"{'video':{width}}  clips  PSNR (dB)  still (dB)"]
    for name, record in zip(names, records, strict=True):
        line = f"{name:{width}}  {record['clips']:5}  {record['psnr']:9.2f}  {record['still_psnr']:10.2f}"
        lines.append(line)
    lines.append(f"{'mean of the videos':{width}}  {'':5}  {mean['psnr']:9.2f}  {mean['still_psnr']:10.2f}")
    return "\n".join(lines)
