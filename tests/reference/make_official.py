"""Makes the reference numbers of this folder that came after the first ones, by running the official code.

    python tests/reference/make_official.py --official=DIR [variants] [gradients] [stage1]

DIR is a copy of github.com/sihyun-yu/PVDM at commit 793172f; PyTorch is needed, a GPU is not. Weights and inputs come
from recipe.py, so that only names, shapes and results are kept. Everything is float32 on the CPU. What the official
code wants and these numbers don't need (torchvision, gdown, a GPU) gets stand-ins; nothing of its models is changed.
"""

import argparse
import contextlib
import importlib.machinery
import json
import pathlib
import sys
import types

import numpy as np
import recipe
import torch

FOLDER = pathlib.Path(__file__).parent
STRIDE = 7  # of the positions that are kept of a denoiser's output: every seventh

UNETS = {
    "plain": dict(model_channels=64, channel_mult=[1, 2], num_res_blocks=1, attention_resolutions=[1, 2], num_heads=4)
    | dict(use_scale_shift_norm=False, resblock_updown=False, cond_model=True, in_channels=4),
    "uneven": dict(model_channels=32, channel_mult=[1, 3, 2], num_res_blocks=2, attention_resolutions=[1, 4])
    | dict(num_heads=8, use_scale_shift_norm=True, resblock_updown=False, cond_model=False, in_channels=3),
    "one_level": dict(model_channels=96, channel_mult=[1], num_res_blocks=3, attention_resolutions=[1], num_heads=2)
    | dict(use_scale_shift_norm=False, resblock_updown=True, cond_model=True, in_channels=8),
    "classes": dict(model_channels=32, channel_mult=[1, 1, 2], num_res_blocks=1, attention_resolutions=[1, 2, 4])
    | dict(num_heads=8, use_scale_shift_norm=True, resblock_updown=True, cond_model=True, in_channels=5)
    | dict(num_classes=7),
    "head_channels": dict(model_channels=64, channel_mult=[1, 2], num_res_blocks=1, attention_resolutions=[1])
    | dict(num_head_channels=32, use_scale_shift_norm=True, resblock_updown=True, cond_model=False, in_channels=4),
    "average_pool": dict(model_channels=32, channel_mult=[1, 2], num_res_blocks=1, attention_resolutions=[1, 2])
    | dict(num_heads=4, use_scale_shift_norm=True, resblock_updown=False, conv_resample=False, cond_model=True)
    | dict(in_channels=4),
}
AUTOENCODERS = {
    "small": dict(embed_dim=3, channels=40, resolution=64, timesteps=8),
    "short": dict(embed_dim=6, channels=64, resolution=32, timesteps=3),
}
TINY_UNET = dict(model_channels=32, channel_mult=[1, 2], num_res_blocks=1, attention_resolutions=[2, 1], num_heads=8)
TINY_UNET |= dict(use_scale_shift_norm=True, resblock_updown=True, cond_model=True, in_channels=4)
STAGE1 = dict(embed_dim=4, channels=32, resolution=32, timesteps=4, ndf=8, batch=2, accumulate=3, updates=4, seed=81)


def prepare(official: pathlib.Path) -> None:
    """Makes the official code importable."""

    def module(name, **members):
        made = types.ModuleType(name)
        made.__spec__ = importlib.machinery.ModuleSpec(name, None)
        made.__dict__.update(members)
        sys.modules[name] = made
        return made

    def vgg16(pretrained=False):
        layers, features_in = [], 3
        for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            for _ in range(count):
                layers += [torch.nn.Conv2d(features_in, width, 3, padding=1), torch.nn.ReLU(inplace=True)]
                features_in = width
            layers.append(torch.nn.MaxPool2d(2))
        return types.SimpleNamespace(features=torch.nn.Sequential(*layers))

    models = module("torchvision.models", vgg16=vgg16)
    grids = module("torchvision.utils", make_grid=None)
    module("torchvision", models=models, utils=grids)
    module("utils", make_pairs=None)
    module("requests")
    sys.path.insert(0, str(official))
    torch.Tensor.cuda = lambda self, *_: self
    torch.set_default_dtype(torch.float32)


def fill(model: torch.nn.Module, seed: int, change=lambda name, array: array) -> list:
    """Gives the model the recipe's weights. Returns the (name, shape) of each."""
    names = dict(model.named_parameters()).keys()
    names |= {name for name in model.state_dict() if name.endswith(("running_mean", "running_var"))}
    spec = [[name, list(value.shape)] for name, value in model.state_dict().items() if name in names]
    weights = recipe.weights(spec, seed)
    given = {name: torch.from_numpy(change(name, weights[name])) for name in weights}
    model.load_state_dict(given, strict=False)
    return spec


def unet(config: dict) -> torch.nn.Module:
    from models.ddpm.unet import UNetModel

    return UNetModel(image_size=32, out_channels=config["in_channels"], **config)


def autoencoder(config: dict) -> torch.nn.Module:
    from models.autoencoder.autoencoder_vit import ViTAutoencoder

    details = {name: config[name] for name in ("channels", "resolution", "timesteps")} | {"splits": 1}
    return ViTAutoencoder(config["embed_dim"], details)


def lpips_and_discriminators(config: dict, start: int) -> torch.nn.Module:
    import losses.lpips
    import losses.perceptual as perceptual

    losses.lpips.LPIPS.load_from_pretrained = lambda *_: None
    # Synchronised batch norm needs a GPU.
    for made, norm in (
        (perceptual.NLayerDiscriminator, torch.nn.BatchNorm2d),
        (perceptual.NLayerDiscriminator3D, torch.nn.BatchNorm3d),
    ):
        defaults = made.__init__.__defaults__
        made.__init__.__defaults__ = tuple(norm if value is torch.nn.SyncBatchNorm else value for value in defaults)
    return perceptual.LPIPSWithDiscriminator(start, disc_ndf=config["ndf"], timesteps=config["timesteps"])


def official_video(frames: int, size: int, seed: int, batch: int = 1) -> torch.Tensor:
    """recipe.video as (b, c, t, h, w)."""
    return torch.from_numpy(recipe.video(frames, size, size, seed=seed, batch=batch)).permute(0, 4, 1, 2, 3)


def save(name: str, info: dict, arrays: dict) -> None:
    (FOLDER / f"{name}.json").write_text(json.dumps(info, separators=(",", ":")) + "\n")
    np.savez_compressed(FOLDER / f"{name}.npz", **{key: np.asarray(value) for key, value in arrays.items()})


@torch.no_grad()
def variants() -> None:
    """Outputs of other configurations than the paper's."""
    info, arrays = {"stride": STRIDE, "unet": {}, "autoencoder": {}}, {}
    for seed, (name, config) in enumerate(UNETS.items(), start=61):
        model = unet(config).eval()
        spec = fill(model, seed)
        steps, channels = torch.tensor([17, 803]), config["in_channels"]
        x, cond = (torch.from_numpy(recipe.noise((2, channels, 2048), seed, key)) for key in ("x", "cond"))
        labels = torch.tensor([2, 6]) if "num_classes" in config else None
        info["unet"][name] = {"config": config, "seed": seed, "weights": spec, "steps": steps.tolist()}
        info["unet"][name]["labels"] = None if labels is None else labels.tolist()
        arrays[f"{name}_eps"] = model(x, None, steps, y=labels)[..., ::STRIDE]
        if config["cond_model"]:
            arrays[f"{name}_eps_cond"] = model(x, cond, steps, y=labels)[..., ::STRIDE]
    for seed, (name, config) in enumerate(AUTOENCODERS.items(), start=71):
        model = autoencoder(config).eval()
        info["autoencoder"][name] = {"config": config, "seed": seed, "weights": fill(model, seed)}
        video = official_video(config["timesteps"], config["resolution"], seed)
        arrays[f"{name}_latents"] = model.extract(video)
        arrays[f"{name}_recon"] = model(video)[0].permute(0, 2, 3, 1)[:, ::4, ::4]
    save("variants", info, arrays)


def norms(named: dict) -> dict[str, float]:
    """The norm of each gradient and of all together."""
    each = {name: gradient.detach().double().norm().item() for name, gradient in named.items()}
    return {"total": float(np.sqrt(sum(value**2 for value in each.values())))} | each


def gradients() -> None:
    """The denoiser's training loss, and the norm of its gradient by each weight."""
    from losses.ddpm import DDPM
    from models.ddpm.unet import DiffusionWrapper

    seed = 91
    model = DiffusionWrapper(unet(TINY_UNET))
    spec = fill(model.diffusion_model, seed)
    # As the official program builds it: no loss_type, so the squared error.
    with contextlib.redirect_stdout(sys.stderr):
        process = DDPM(model, channels=4, image_size=32, linear_start=0.0015, linear_end=0.0195, w=0.0)
    x0, cond = (torch.from_numpy(np.tanh(recipe.noise((2, 4, 2048), seed, key))) for key in ("x0", "cond"))
    noise, t = torch.from_numpy(recipe.noise((2, 4, 2048), seed, "noise")), torch.tensor([40, 611])
    info = {"config": TINY_UNET, "seed": seed, "weights": spec, "t": t.tolist(), "layout": "see README.md"}
    for name, condition in (("cond", cond), ("uncond", torch.zeros_like(cond))):
        model.zero_grad()
        loss, _ = process.p_losses(x0, condition, t, noise)
        loss.backward()
        parameters = model.diffusion_model.named_parameters()
        info[name] = {"loss": loss.item(), "gradient": norms({key: value.grad for key, value in parameters})}
    save("gradients", info, {})


def criterion_weight(name: str, array: np.ndarray) -> np.ndarray:
    """LPIPS's linear layers are positive; the discriminators' last ones so large that some gradients are clipped."""
    if name.endswith("model4.0.weight"):
        return 4 * array
    return np.abs(array) if ".lin" in name else array


def adversarial_terms(config: dict) -> dict[str, float]:
    """Norms of the gradients of each adversarial term in the reconstruction, for a real video and the same with noise.

    The reconstructions of an autoencoder with the recipe's weights are so even that batch norm amplifies rounding
    until it moves features over the kinks of the losses; these videos are not.
    """
    criterion = lpips_and_discriminators(config, start=0)
    fill(criterion, config["seed"], criterion_weight)
    size, seed, batch = (
        (config["timesteps"], config["resolution"], config["resolution"]),
        config["seed"],
        config["batch"],
    )
    video = official_video(size[0], size[1], seed, batch)
    noise = torch.from_numpy(recipe.noise((batch, *size, 3), seed, "noise")).permute(0, 4, 1, 2, 3)
    fake = (video + 0.3 * noise).clip(-1, 1).contiguous().requires_grad_()
    terms = {}
    for name, judge, pick in (
        ("image", criterion.discriminator_2d, lambda x: x[:, :, 1]),
        ("video", criterion.discriminator_3d, lambda x: x),
    ):
        logits, features = judge(pick(fake))
        _, wanted = judge(pick(video).contiguous())
        terms[f"{name}_logits"] = -logits.mean()
        for i, (ours, theirs) in enumerate(zip(features[:-1], wanted[:-1], strict=True)):
            terms[f"{name}_feature_{i}"] = (ours - theirs.detach()).abs().mean()
    gradients = {name: torch.autograd.grad(value, fake, retain_graph=True)[0] for name, value in terms.items()}
    return {name: gradient.double().norm().item() for name, gradient in gradients.items()}


def stage1() -> None:
    """The official trainer's alternating updates, without mixed precision; and its first phase's loss."""
    config, seed = STAGE1, STAGE1["seed"]
    model, criterion = autoencoder(config), lpips_and_discriminators(config, start=0)
    info = {"config": config, "seed": seed, "autoencoder": fill(model, seed)}
    info["criterion"] = fill(criterion, seed, criterion_weight)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.5, 0.9))
    parts = {"2d": criterion.discriminator_2d, "3d": criterion.discriminator_3d}
    judged = [p for part in parts.values() for p in part.parameters()]
    d_optimizer = torch.optim.AdamW(judged, lr=1e-4, betas=(0.5, 0.9))
    batch, accumulate = config["batch"], config["accumulate"]
    frames_seen, updates = [], []
    draw = torch.randint

    def loss_of(index: int, start: int, optimizer_idx: int) -> torch.Tensor:
        """The official loss of micro-batch `index`, before it is divided by the number of them."""
        video = official_video(config["timesteps"], config["resolution"], 100 * seed + index, batch)
        video = ((video + 1) * 127.5).round() / 127.5 - 1  # as it is after 8 bits
        chosen = np.random.default_rng([seed, index]).integers(config["timesteps"], size=batch)
        torch.randint = lambda *_, **__: torch.from_numpy(chosen)
        criterion.discriminator_iter_start = start
        with torch.set_grad_enabled(optimizer_idx == 0):
            found, extra = model(video)
        found = found.reshape(batch, config["timesteps"], *found.shape[1:]).permute(0, 2, 1, 3, 4)
        loss = criterion(extra, video, found, optimizer_idx=optimizer_idx, global_step=index)
        torch.randint = draw
        if optimizer_idx == 0 and start == 0:
            frames_seen.append(chosen.tolist())
        elif optimizer_idx == 1:
            frames_seen.append(chosen.tolist())
        return loss

    # The first phase: the adversarial terms have weight 0 before step `disc_start`.
    total = 0
    for index in range(accumulate):
        total = total + loss_of(index, 10**9, 0) / accumulate
    model.zero_grad()
    total.backward()
    first = {name: value.grad for name, value in model.named_parameters()}
    info["first_phase"] = {"loss": total.item(), "gradient": norms(first)}

    for update in range(config["updates"]):
        discriminating = update % 2 == 1
        (criterion if discriminating else model).zero_grad()
        losses = []
        for index in range(update * accumulate, (update + 1) * accumulate):
            loss = loss_of(index, 0, int(discriminating))
            (loss / accumulate).backward()
            losses.append(loss.item())
        record = {"kind": "discriminators" if discriminating else "autoencoder", "losses": losses}
        if discriminating:
            for name, part in parts.items():
                record[f"gradient_{name}"] = norms({key: value.grad for key, value in part.named_parameters()})["total"]
                torch.nn.utils.clip_grad_norm_(part.parameters(), 1.0)
            d_optimizer.step()
        else:
            record["gradient"] = norms({key: value.grad for key, value in model.named_parameters()})["total"]
            optimizer.step()
        updates.append(record)
    info["updates"], info["frames"] = updates, frames_seen
    final = {"autoencoder": model, "2d": parts["2d"], "3d": parts["3d"]}
    info["final_norms"] = {key: norms(dict(part.named_parameters()))["total"] for key, part in final.items()}
    info["adversarial_terms"] = adversarial_terms(config)
    save("stage1", info, {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=pathlib.Path, required=True, help="a copy of the official code")
    parser.add_argument("what", nargs="*", default=["variants", "gradients", "stage1"])
    arguments = parser.parse_args()
    prepare(arguments.official.absolute())
    for name in arguments.what:
        {"variants": variants, "gradients": gradients, "stage1": stage1}[name]()


if __name__ == "__main__":
    main()
