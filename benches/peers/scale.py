"""What more costs: pixels, images per batch, threads, sizes of the model; vitrum beside PyTorch eager.

    /tmp/peers/bin/python benches/peers/scale.py [--vitrum target/release/vitrum] [--plot scale.png] [--quick]

Forward passes in f32. PyTorch's attention is its fused one (timm's default). Every library runs in a process of its
own, in turn; a figure is the median of a few passes, the memory the process's peak.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

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


def torch_worker(model: str, side: int, batch: int, threads: int, passes: int) -> dict:
    import resource

    import timm
    import torch

    torch.set_num_threads(threads)
    network = timm.create_model(model, img_size=side).eval()
    images = torch.randn(batch, 3, side, side)
    times = []
    with torch.inference_mode():
        for _ in range(passes + 1):
            start = time.perf_counter()
            network(images)
            times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"images_per_second": batch / statistics.median(times[1:]), "peak_mb": peak}


def vitrum(binary: str, model: str, side: int, batch: int, threads: int, passes: int) -> dict:
    command = [binary, "bench", "-q", "-m", model, "--img-size", str(side), "-b", str(batch), "--threads", str(threads)]
    command += ["--runs", str(passes), "--warmup", "1", "--format", "json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vitrum", default="target/release/vitrum")
    parser.add_argument("--plot", help="write the curves to this picture")
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(torch_worker(**json.loads(args.worker), passes=args.passes)))
        return
    measured = {}
    for sweep, cases in SWEEPS.items():
        print(f"\n| {sweep} | torch eager, images/s | vitrum, images/s | ratio | torch, MB | vitrum, MB |\n|---|---|---|---|---|---|")
        measured[sweep] = []
        for label, model, side, batch, threads in cases:
            case = {"model": model, "side": side, "batch": batch, "threads": threads}
            command = [sys.executable, __file__, "--worker", json.dumps(case), "--passes", str(args.passes)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            theirs = json.loads(done.stdout.splitlines()[-1])
            ours = vitrum(args.vitrum, model, side, batch, threads, args.passes)
            measured[sweep].append((label, theirs, ours))
            speeds = theirs["images_per_second"], ours["images_per_second"]
            print(
                f"| {label} | {speeds[0]:.2f} | {speeds[1]:.2f} | {speeds[1] / speeds[0]:.2f} |"
                f" {theirs['peak_mb']:.0f} | {ours['peak_mb']:.0f} |",
                flush=True,
            )
    if args.plot:
        draw(measured, args.plot)


def draw(measured: dict, path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(measured), figsize=(4.2 * len(measured), 7), constrained_layout=True)
    for column, (sweep, cases) in enumerate(measured.items()):
        labels = [str(label) for label, _, _ in cases]
        for row, (key, title) in enumerate([("images_per_second", "images/s"), ("peak_mb", "peak MB")]):
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
