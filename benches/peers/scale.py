"""What more costs: pixels, images per batch, threads, sizes of the model; vitrum beside PyTorch eager.

    /tmp/peers/bin/python benches/peers/scale.py [--vitrum target/release/vitrum] [--rounds 3] [--plot scale.png]

Forward passes in f32. PyTorch's attention is its fused one (timm's default). Every library runs in a process of its
own, in turn; a figure is the median over rounds of medians of a few passes, the ratio the median of ratios within a
round, the memory the process's peak. Efficiency is the share of the multiply-adds that registers alone reach in the same
round, of those that the answer needs. See run.py for `pace`.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import time

from asked import Asked, peak_mb, serve
from pace import Pace

TINY, SMALL, BASE, LARGE = (f"vit_{size}_patch16_224" for size in ("tiny", "small", "base", "large"))
# What varies: its name, then cases of (label, model, pixels, batch, threads).
SWEEPS = {
    "pixels (ViT-S/16, 1 image, 2 threads)": [(side, SMALL, side, 1, 2) for side in (224, 384, 512, 768, 1024)],
    "images (ViT-Ti/16, 224 pixels, 2 threads)": [(batch, TINY, 224, batch, 2) for batch in (1, 2, 4, 8, 16, 32, 64)],
    "threads (ViT-S/16, 224 pixels, 8 images)": [(threads, SMALL, 224, 8, threads) for threads in (1, 2)],
    "model (224 pixels, 1 image, 2 threads)": [
        (label, model, 224, 1, 2) for label, model in [("Ti", TINY), ("S", SMALL), ("B", BASE), ("L", LARGE)]
    ],
}


def torch_worker(model: str, side: int, batch: int, threads: int) -> None:
    import timm
    import torch

    torch.set_num_threads(threads)
    network = timm.create_model(model, img_size=side).eval()
    images = torch.randn(batch, 3, side, side)

    def measure(seconds: float) -> dict:
        times = []
        with torch.inference_mode():
            while len(times) < 4 or sum(times) < seconds:
                start = time.perf_counter()
                network(images)
                times.append(time.perf_counter() - start)
        return {"images_per_second": batch / statistics.median(times[1:]), "peak_mb": peak_mb()}

    serve(measure)


def vitrum(binary: str, model: str, side: int, batch: int, threads: int, seconds: float) -> dict:
    command = [binary, "bench", "-q", "-m", model, "--img-size", str(side), "-b", str(batch), "--threads", str(threads)]
    command += ["--runs", "3", "--seconds", str(seconds), "--warmup", "1", "--format", "json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vitrum", default="target/release/vitrum")
    parser.add_argument("--plot", help="write the curves to this picture")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return torch_worker(**json.loads(args.worker))
    measured = {}
    for sweep, cases in SWEEPS.items():
        print(f"\n| {sweep} | torch eager, images/s | vitrum, images/s | ratio | torch, of the peak | vitrum | torch, MB | vitrum, MB |")
        print("|---|---|---|---|---|---|---|---|")
        measured[sweep] = []
        for label, *case in cases:
            theirs, ours, ratio = compare(*case, args)
            measured[sweep].append((label, theirs, ours))
            print(
                f"| {label} | {theirs['images_per_second']:.2f} | {ours['images_per_second']:.2f} | {ratio:.2f} |"
                f" {theirs['efficiency']:.2f} | {ours['efficiency']:.2f} | {theirs['peak_mb']:.0f} | {ours['peak_mb']:.0f} |",
                flush=True,
            )
    if args.plot:
        draw(measured, args.plot)


def compare(model: str, side: int, batch: int, threads: int, args) -> tuple[dict, dict, float]:
    """Medians over rounds of torch's and vitrum's figures, and of the ratio of their speeds."""
    case = {"model": model, "side": side, "batch": batch, "threads": threads}
    rounds = []
    with contextlib.closing(Pace(threads)) as pace, contextlib.closing(Asked(__file__, ["--worker", json.dumps(case)])) as peer:
        for _ in range(args.rounds):
            theirs = pace.steady(lambda: peer.measure(args.seconds))
            ours = pace.steady(lambda: vitrum(args.vitrum, model, side, batch, threads, args.seconds))
            ours["efficiency"] = ours["share_of_peak"]
            theirs["efficiency"] = ours["share_of_peak"] * theirs["images_per_second"] / ours["images_per_second"]
            rounds.append((theirs, ours))
    ratio = statistics.median(ours["images_per_second"] / theirs["images_per_second"] for theirs, ours in rounds)
    middle = [
        {key: statistics.median(one[library][key] for one in rounds) for key in ("images_per_second", "efficiency", "peak_mb")}
        for library in (0, 1)
    ]
    return *middle, ratio


def draw(measured: dict, path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(3, len(measured), figsize=(4.2 * len(measured), 10), constrained_layout=True)
    for column, (sweep, cases) in enumerate(measured.items()):
        labels = [str(label) for label, _, _ in cases]
        for row, (key, title) in enumerate([("images_per_second", "images/s"), ("efficiency", "share of the FMA peak"), ("peak_mb", "peak MB")]):
            axis = axes[row][column]
            axis.plot(labels, [theirs[key] for _, theirs, _ in cases], "o--", color="tab:gray", label="torch eager")
            axis.plot(labels, [ours[key] for _, _, ours in cases], "o-", color="tab:blue", label="vitrum")
            axis.set_ylim(bottom=0)
            axis.set_title(sweep if row == 0 else "", fontsize=9)
            axis.set_ylabel(title)
            axis.grid(alpha=0.3)
    axes[0][0].legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
