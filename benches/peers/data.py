"""From photos to normalised pixels, one core: vitrum beside Pillow with torchvision.

    /tmp/peers/bin/python benches/peers/data.py photos/ [--vitrum target/release/vitrum] [--rounds 5]

Decode, resize the shorter side to 248 (bicubic, antialiased), crop 224 from the centre, scale and normalise, as the
ImageNet ViTs want it; all images of the folder, read from the system's cache; one thread each. In each round the median
of three passes after one that does not count; rounds alternate.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path


PASSES = 3


def pillow(folder: str) -> float:
    """Images per second, in this process."""
    import torch
    import torchvision.transforms as transforms
    from PIL import Image

    torch.set_num_threads(1)
    transform = transforms.Compose([
        transforms.Resize(248, interpolation=transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize([0.5] * 3, [0.5] * 3),
    ])  # fmt: skip
    files = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in {".jpg", ".jpeg", ".png"})

    def once() -> float:
        begun = time.perf_counter()
        for first in range(0, len(files), 8):
            torch.stack([transform(Image.open(file).convert("RGB")) for file in files[first : first + 8]])
        return len(files) / (time.perf_counter() - begun)

    once()
    return statistics.median(once() for _ in range(PASSES))


def vitrum(binary: str, folder: str) -> float:
    command = [binary, "bench", "-q", "-m", "vit_tiny_patch16_224", "--data", folder, "-b", "8", "--runs", str(PASSES)]
    command += ["--warmup", "1", "--threads", "1", "--format", "json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)[0]["images_per_second"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("--vitrum", default="target/release/vitrum")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(pillow(args.photos))
        return
    worker = [sys.executable, __file__, args.photos, "--worker"]
    rounds = []
    for _ in range(args.rounds):
        theirs = float(subprocess.run(worker, check=True, capture_output=True, text=True).stdout)
        rounds.append((theirs, vitrum(args.vitrum, args.photos)))
    ratios = sorted(ours / theirs for theirs, ours in rounds)
    theirs, ours = (statistics.median(speeds) for speeds in zip(*rounds))
    print("| Pillow + torchvision, images/s | vitrum, images/s | ratio, median (least–most) |\n|---|---|---|")
    print(f"| {theirs:.0f} | {ours:.0f} | {statistics.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f}) |")


if __name__ == "__main__":
    main()
