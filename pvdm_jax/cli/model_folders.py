"""Commands that write model folders: from official weights, and from a run."""

import argparse

from pvdm_jax.cli.arguments import MODEL_HELP, AddCommand, path, positive
from pvdm_jax.cli.sampling_arguments import add_sampling, sampling_options

AUTOENCODER_FIELDS = ("num_heads", "plane_num_heads")
DENOISER_FIELDS = ("num_heads", "num_head_channels")


def _convert(args: argparse.Namespace) -> None:
    from pvdm_jax.weights.official.convert import convert_files

    given = {name: value for name, value in vars(args).items() if value is not None}
    folder = convert_files(
        args.output,
        autoencoder=args.autoencoder,
        denoiser=args.denoiser,
        autoencoder_overrides={
            name: given[f"autoencoder_{name}"] for name in AUTOENCODER_FIELDS if f"autoencoder_{name}" in given
        },
        denoiser_overrides={name: given[name] for name in DENOISER_FIELDS if name in given},
        dtype=args.dtype,
    )
    print((folder / "README.md").read_text(encoding="utf-8"))
    print(f"written: {folder}")


def _export(args: argparse.Namespace) -> None:
    from pvdm_jax.commands import export

    folder = export.export(
        args.model,
        args.output,
        dtype=args.dtype,
        sampler=args.sampler_program,
        num_frames=args.num_frames,
        options=sampling_options(args),
        platforms=args.platforms.split(",") if args.platforms else export.DEFAULT_PLATFORMS,
        batch_size=args.batch_size,
        weights_inside=args.weights_inside,
        facts={"summary": args.summary, "license": args.license, "command": args.made_by},
        evaluation=args.evaluation,
        held_out=args.held_out or 0,
    )
    print(f"exported to {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")


def _models(args: argparse.Namespace) -> None:
    from pvdm_jax.weights.packaged import packaged_models

    found = packaged_models()
    if not found:
        print("no trained model is packaged with this version")
    for model in found:
        clip = f"clips of {model.frames} frames of {model.width} x {model.height}"
        print(f"{model.name}: {model.summary or clip}")
        print(f"  {clip}; {model.parameters / 1e6:.1f} M parameters, {model.bytes / 1e6:.1f} MB", end="")
        print(f"; license: {model.license}" if model.license else "")
        if model.class_names:
            print(f"  classes: {', '.join(model.class_names)}")
        print(f"  pvdm sample --model={model.name} --output=out")


def add_commands(add: AddCommand) -> None:
    command = add(
        "convert",
        _convert,
        "convert weights of the official PyTorch code to a model folder",
        "pvdm convert --autoencoder=model_last.pth --denoiser=ema_model_850000.pth --output=models/ucf101",
    )
    kinds = ".pth, .pt, .npz or .safetensors file with the official names, or a model folder"
    command.add_argument("--autoencoder", type=path, metavar="FILE", help=f"weights of the autoencoder: {kinds}")
    command.add_argument("--denoiser", type=path, metavar="FILE", help=f"weights of the denoiser: {kinds}")
    command.add_argument("--output", type=path, required=True, help="the model folder, new or empty")
    help = "dtype of the weight files; bfloat16 and float16 are half as large and less exact (default: float32)"
    command.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help=help)
    group = command.add_argument_group("settings that shapes do not determine", "The defaults are the paper's.")
    group.add_argument("--num-heads", type=positive, help="attention heads of the denoiser (default: 8)")
    help = "channels of each of the denoiser's heads, in place of --num-heads"
    group.add_argument("--num-head-channels", type=positive, help=help)
    help = "attention heads of the autoencoder's transformers (default: 8)"
    group.add_argument("--autoencoder-num-heads", type=positive, help=help)
    help = "attention heads of the autoencoder's projections to planes (default: 4)"
    group.add_argument("--autoencoder-plane-num-heads", type=positive, help=help)

    command = add(
        "export",
        _export,
        "write a model folder to share, and a sampler that runs without pvdm_jax",
        "pvdm export --model=runs/demo --output=exported/demo --sampler-program --steps=50",
    )
    command.add_argument("--model", type=path, required=True, help=MODEL_HELP)
    command.add_argument("--output", type=path, required=True, help="the model folder, new or empty")
    help = "dtype of the weight files: float32, bfloat16 or float16 (default: float32)"
    command.add_argument("--dtype", default="float32", help=help)
    help = "also write sampler.jax, the whole sampler as a portable program (needs the extra pvdm_jax[export])"
    command.add_argument("--sampler-program", action="store_true", help=help)
    command.add_argument("--num-frames", type=positive, help="frames of the program's videos (default: one clip)")
    help = "platforms that can run the program: cpu, cuda, rocm, tpu, separated by commas (default: cpu,cuda,tpu)"
    command.add_argument("--platforms", help=help)
    command.add_argument("--batch-size", type=positive, help="videos in each call of the program (default: any number)")
    command.add_argument("--weights-inside", action="store_true", help="put the weights into the program")
    add_sampling(command)
    group = command.add_argument_group("the card", "What others should know about the model: docs/model_folder.md.")
    group.add_argument("--summary", metavar="TEXT", help="one line on what the model makes")
    help = "licence of the weights and of what they were trained on"
    group.add_argument("--license", metavar="TEXT", help=help)
    group.add_argument("--made-by", metavar="COMMAND", help="the command that trained the model")
    help = "card.json of `pvdm evaluate`, or its folder: the protocol and numbers are shown"
    group.add_argument("--evaluation", type=path, metavar="CARD", help=help)
    help = (
        "number of held-out clips to reconstruct for the card (256 are enough); later commands then warn about videos "
        "that are far from the training data"
    )
    group.add_argument("--held-out", type=positive, metavar="CLIPS", help=help)

    add("models", _models, "list the trained models that come with the package", "pvdm models")
