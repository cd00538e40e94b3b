"""A recipe of vitrum's trained by timm and PyTorch: the same model, schedule, groups and augmentation.

    vitrum data split cifar10/ --val-fraction 0.1 --output-dir split/ --link
    vitrum train split/ -c cifar/cifar10_test_vit_patch4 --val-split val --seed 1
    /tmp/peers/bin/python benches/peers/cifar.py split/ --recipe crates/vitrum/recipes/cifar/cifar10_test_vit_patch4.toml --seed 1

    … > timm.csv, and then both curves in one picture:
    /tmp/peers/bin/python benches/peers/cifar.py --plot cifar10.svg [--names vitrum,timm] runs/classify/NAME/summary.csv timm.csv

Reads the keys such a small recipe has and refuses others. Prints a line of CSV per epoch. The images stay in memory
and are cropped and flipped as one tensor per batch, each by its own draw.
"""

import argparse
import os
import sys
import time
import tomllib

import numpy as np
import timm
import torch
from PIL import Image
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler

KNOWN = {
    "model", "img_size", "model_kwargs", "opt", "lr", "weight_decay", "clip_grad", "sched", "epochs", "warmup_epochs",
    "warmup_lr", "min_lr", "crop_pad", "hflip", "color_jitter", "smoothing", "crop_pct", "mean", "std", "batch_size",
}  # fmt: skip


def read(folder: str) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = [], []
    for label, name in enumerate(sorted(os.listdir(folder))):
        for file in sorted(os.listdir(os.path.join(folder, name))):
            images.append(np.asarray(Image.open(os.path.join(folder, name, file)).convert("RGB")))
            labels.append(label)
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), torch.tensor(labels)


def plot(path: str, tables: list[str], names: list[str]) -> None:
    """Draws the tables' top-1 and loss. Tables with the same name share a colour and a line of the legend."""
    import csv

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), constrained_layout=True)
    known = list(dict.fromkeys(names))
    for index, (table, name) in enumerate(zip(tables, names, strict=True)):
        look = {"color": f"C{known.index(name)}", "linestyle": ["-", "--", "-.", ":"][known.index(name) % 4]}
        label = name if names.index(name) == index else None
        with open(table) as file:
            rows = list(csv.DictReader(file))
        epochs = [int(row["epoch"]) + 1 for row in rows]
        for axis, key, title in [(axes[0], "eval_top1", "top-1 of images held back, %"), (axes[1], "train_loss", "training loss")]:
            axis.plot(epochs, [float(row[key]) for row in rows], label=label, **look)
            axis.set_xlabel("epoch")
            axis.set_title(title, fontsize=10)
            axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="a folder with train/ and val/; with --plot, the tables")
    parser.add_argument("--recipe")
    parser.add_argument("--plot")
    parser.add_argument("--names", default="vitrum,timm", help="with --plot: a name for each table, with commas between")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    if args.plot:
        return plot(args.plot, args.data, args.names.split(","))
    if not args.recipe:
        parser.error("--recipe is missing")
    args.data = args.data[0]
    with open(args.recipe, "rb") as file:
        recipe = tomllib.load(file)
    if unknown := set(recipe) - KNOWN:
        sys.exit(f"{args.recipe}: not read here: {', '.join(sorted(unknown))}")

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    images, labels = read(os.path.join(args.data, "train"))
    val_images, val_labels = read(os.path.join(args.data, "val"))
    mean = torch.tensor(recipe["mean"]).view(1, 3, 1, 1)
    std = torch.tensor(recipe["std"]).view(1, 3, 1, 1)
    size, batch, pad = recipe["img_size"], recipe["batch_size"], recipe["crop_pad"]
    model = timm.create_model(recipe["model"], num_classes=10, img_size=size, **recipe["model_kwargs"])
    optimizer = create_optimizer_v2(model, opt=recipe["opt"], lr=recipe["lr"], weight_decay=recipe["weight_decay"])
    per_epoch = len(images) // batch
    schedule = CosineLRScheduler(
        optimizer, t_initial=recipe["epochs"] * per_epoch, lr_min=recipe["min_lr"], t_in_epochs=False,
        warmup_t=recipe["warmup_epochs"] * per_epoch, warmup_lr_init=recipe["warmup_lr"],
    )  # fmt: skip

    def augmented(index: torch.Tensor) -> torch.Tensor:
        padded = torch.nn.functional.pad(images[index], (pad,) * 4)
        top, left = torch.randint(2 * pad + 1, (2, len(index)))
        rows, columns = top[:, None] + torch.arange(size), left[:, None] + torch.arange(size)
        crops = padded[torch.arange(len(index))[:, None, None, None], torch.arange(3)[None, :, None, None],
                       rows[:, None, :, None], columns[:, None, None, :]]  # fmt: skip
        flip = torch.rand(len(index)) < recipe["hflip"]
        crops[flip] = crops[flip].flip(3)
        return (crops.float() / 255 - mean) / std

    print("epoch,seconds,train_loss,eval_loss,eval_top1,images_per_second", flush=True)
    begun, update = time.perf_counter(), 0
    for epoch in range(recipe["epochs"]):
        model.train()
        losses, start = [], time.perf_counter()
        order = torch.randperm(len(images))
        for step in range(per_epoch):
            index = order[step * batch : (step + 1) * batch]
            loss = torch.nn.functional.cross_entropy(
                model(augmented(index)), labels[index], label_smoothing=recipe["smoothing"]
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe["clip_grad"])
            optimizer.step()
            update += 1
            schedule.step_update(update)
            losses.append(loss.item())
        speed = per_epoch * batch / (time.perf_counter() - start)
        model.eval()
        with torch.inference_mode():
            logits = torch.cat([model((part.float() / 255 - mean) / std) for part in val_images.split(250)])
        eval_loss = torch.nn.functional.cross_entropy(logits, val_labels).item()
        top1 = (logits.argmax(1) == val_labels).float().mean().item() * 100
        print(
            f"{epoch},{time.perf_counter() - begun:.0f},{sum(losses) / len(losses):.4f},{eval_loss:.4f},{top1:.2f},"
            f"{speed:.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
