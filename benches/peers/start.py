"""From the shell to the first answer: one photo, vitrum beside a Python script with timm.

    /tmp/peers/bin/python benches/peers/start.py photo.jpg model/ [--vitrum target/release/vitrum] [--rounds 9]

`model/` holds config.json and weights in timm's hub layout. Both print the five likeliest classes of the photo; the
time is the whole process's, the memory its peak. Rounds alternate; the files are in the system's cache.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time


def answer(photo: str, folder: str) -> None:
    """What the Python process does."""
    import json

    import timm
    import torch
    from PIL import Image
    from safetensors.torch import load_file

    with open(os.path.join(folder, "config.json")) as file:
        card = json.load(file)
    model = timm.create_model(card["architecture"], num_classes=card.get("num_classes", 1000)).eval()
    model.load_state_dict(load_file(os.path.join(folder, "model.safetensors")))
    config = timm.data.resolve_data_config(card.get("pretrained_cfg", {}), model=model)
    image = timm.data.create_transform(**config)(Image.open(photo).convert("RGB"))
    with torch.inference_mode():
        probs = model(image[None]).softmax(1)[0]
    for prob, index in zip(*probs.topk(5)):
        print(f"{100 * prob:5.1f} %  {index}")


def measure(command: list[str]) -> tuple[float, float]:
    """Seconds and peak MB of a process."""
    begun = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(command)}")
    return time.perf_counter() - begun, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo")
    parser.add_argument("model")
    parser.add_argument("--vitrum", default="target/release/vitrum")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.answer:
        return answer(args.photo, args.model)
    commands = {
        "timm": [sys.executable, __file__, args.photo, args.model, "--answer"],
        "vitrum": [args.vitrum, "predict", args.photo, "-m", args.model, "--threads", "2"],
    }
    seen = {name: [] for name in commands}
    for _ in range(args.rounds + 1):
        for name, command in commands.items():
            seen[name].append(measure(command))
    print("| | seconds, median (least–most) | peak MB |\n|---|---|---|")
    for name, measured in seen.items():
        seconds = sorted(second for second, _ in measured[1:])  # the first fills the cache
        peak = max(peak for _, peak in measured[1:])
        print(f"| {name} | {statistics.median(seconds):.3f} ({seconds[0]:.3f}–{seconds[-1]:.3f}) | {peak:.0f} |")


if __name__ == "__main__":
    main()
