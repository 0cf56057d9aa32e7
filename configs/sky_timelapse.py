"""SkyTimelapse in the paper's sizes, clips of 16 frames of 256 x 256.

Variants: `l` (the default), `s`, `l-official`, `s-official`, `dit-l`, `dit-s`.

    pvdm prepare           --source=SkyTimelapse --layout=sky_timelapse --output=data/sky_timelapse
    pvdm train-autoencoder --config=sky_timelapse:l --workdir=runs/sky_timelapse
    pvdm encode            --config=sky_timelapse:l --workdir=runs/sky_timelapse
    pvdm train-diffusion   --config=sky_timelapse:l --workdir=runs/sky_timelapse
    pvdm sample            --model=runs/sky_timelapse --output=runs/sky_timelapse/samples

SkyTimelapse/ has train/ and test/ (or sky_train/ and sky_test/), in which each clip is a folder of frames.
The default of data.path is data/sky_timelapse.

LPIPS needs two files, torchvision's VGG16 and LPIPS's linear layers:
--config.train_autoencoder.perceptual_weights=VGG,LINEAR. Without them the run warns and uses a VGG16 with random
weights, and the numbers below are out of reach.

`l` is PVDM-L and `s` PVDM-S. These two use this project's recipe, the `official` variants that of the official code.
The official denoiser cannot tell the two motion planes apart: half of its first clips come out with the two exchanged.
`dit-l` and `dit-s` have a transformer as denoiser, with about as many parameters as `l` and `s`. docs/fidelity.md
compares the recipes constant by constant.

Hardware: 1, 2, 4 or 8 GPUs of 40 GB or more, or 16 TPU chips. Batches of stage 1 are split into three micro-batches,
those of stage 2 into four; `l`, `s`, `dit-l` and `dit-s` compute in bfloat16, the official variants in float32.
Memory on one GPU, predicted by `pvdm plan`: stage 1 of `l` 9.4 GB, stage 2 of `l` 28 GB and of `dit-l` 17 GB, encoding
2 GB (docs/notes/plans_2026-11.md). Changes for other devices:

    24 GB              --config.train_diffusion.accumulate=8
    16 TPU chips       --config.train_autoencoder.batch_size=32 --config.train_autoencoder.accumulate=2
                       --config.train_diffusion.accumulate=1 --config.mesh.data=1 --config.mesh.fsdp=-1

Expected time on 8 A100 at 30% of their TF32 peak, computed from the FLOPs, not measured:

    stage 1    7.9 TFLOP per clip, 88,000 updates of 24 clips           12 hours
    encode     1.4 TFLOP per clip, once                                 minutes
    stage 2    0.73 TFLOP per clip, 850,000 updates of 64 clips (l)     29 hours
               0.22 TFLOP per clip, 400,000 updates of 64 clips (s)     4 hours

The paper's results (FVD, lower is better; PVDM-L 400/400 means sample.steps / sample.later_steps):

    |                | FVD16 | FVD128 |     | reconstruction     | train | test  |
    | PVDM-S 100/20  | 71.5  | 159.9  |     | R-FVD              | 7.37  | 36.52 |
    | PVDM-L 200/200 | 61.7  | 137.2  |     | PSNR, dB           | 34.33 | 32.68 |
    | PVDM-L 400/400 | 55.4  | 125.2  |
"""

from ml_collections import ConfigDict

from pvdm_jax.config.recipes import paper_config


def get_config(variant: str = "l") -> ConfigDict:
    config = paper_config("sky_timelapse", variant, context_prob=0.2)
    config.data.source = "tfds"
    config.data.path = "data/sky_timelapse"
    config.data.split = "train"
    config.data.eval_split = "test"  # evaluated during training; the paper's test set
    return config
