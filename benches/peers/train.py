"""Training steps: vitrum beside PyTorch eager and torch.compile, alternating, in one process tree.

    python3 -m venv /tmp/peers && /tmp/peers/bin/pip install -r benches/peers/requirements.txt
    cargo build --release
    /tmp/peers/bin/python benches/peers/train.py --vitrum target/release/vitrum [--rounds 3] [--cases tiny32,small224,resnet50:8]

A step is forward, cross entropy, backward and AdamW on a batch that is ready in memory; of a masked autoencoder
(`mae_small224`), whose peer is transformers' ViTMAEForPreTraining, the loss of the masked patches. Every round measures every
library once (a median of several steps each) in a process of its own; the table gives the median over rounds of the
ratio to PyTorch eager of the same round, and each process's peak memory. See run.py for `pace`.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time

from asked import Asked, peak_mb, serve, spread
from network import create, side
from pace import Pace

CASES = {
    "tiny32": {"name": "vit_tiny_patch16_224", "img": 32, "patch": 4, "batch": 64, "classes": 10},
    "small224": {"name": "vit_small_patch16_224", "img": 224, "patch": 16, "batch": 8, "classes": 1000},
    "mae_small224": {"name": "mae_vit_small_patch16_224", "img": 224, "patch": None, "batch": 16, "classes": None},
    "base224": {"name": "vit_base_patch16_224", "img": 224, "patch": 16, "batch": 4, "classes": 1000},
}


def case_of(key: str) -> dict:
    """A case by its name; any other name is a model at its usual size, NAME or NAME:BATCH."""
    if key in CASES:
        return CASES[key]
    name, _, batch = key.partition(":")
    return {"name": name, "img": side(name), "patch": None, "batch": int(batch or 8), "classes": 1000}


def masked_autoencoder():
    """transformers' model of ViT-S/16 with the paper's decoder; attention is its default, `sdpa`."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    return ViTMAEForPreTraining(ViTMAEConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536))


def torch_worker(library: str, case: dict, threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    sizes = {"img_size": case["img"], "patch_size": case["patch"]} if case["patch"] else {}
    masked = case["classes"] is None
    model = masked_autoencoder() if masked else create(case["name"], num_classes=case["classes"], **sizes)
    model.train()
    run = torch.compile(model) if library == "torch.compile" else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05, fused=True)
    images = torch.randn(case["batch"], 3, case["img"], case["img"])
    labels = None if masked else torch.arange(case["batch"]) % case["classes"]

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = run(images).loss if masked else torch.nn.functional.cross_entropy(run(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    def measure(seconds: float) -> dict:
        times = []
        step()
        while len(times) < 4 or sum(times) < seconds:
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
        return {"images_per_second": case["batch"] / statistics.median(times), "peak_mb": peak_mb()}

    step()
    serve(measure)


def vitrum(binary: str, case: dict, threads: int, seconds: float) -> dict:
    command = [
        binary, "bench", "-m", case["name"], "--train", "--batch-sizes", str(case["batch"]),
        "--img-size", str(case["img"]), *(["--num-classes", str(case["classes"])] if case["classes"] else []),
        "--threads", str(threads), "--runs", "4", "--seconds", str(seconds), "--format", "json",
    ]  # fmt: skip
    if case["patch"]:
        command += ["--model-kwargs", f"patch_size={case['patch']}"]
    measured = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)[0]
    return {"images_per_second": measured["images_per_second"], "peak_mb": measured["peak_mb"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vitrum", default="target/release/vitrum")
    parser.add_argument("--cases", default="tiny32,small224")
    parser.add_argument("--libraries", default="torch,torch.compile,vitrum")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--worker")
    args = parser.parse_args()
    if args.worker:
        return torch_worker(args.worker, case_of(args.cases), args.threads)
    libraries = args.libraries.split(",")
    for key in args.cases.split(","):
        rounds = []
        with contextlib.ExitStack() as stack:
            pace = stack.enter_context(contextlib.closing(Pace(args.threads)))
            measures = {}
            for library in libraries:
                if library == "vitrum":
                    measures[library] = lambda: vitrum(args.vitrum, case_of(key), args.threads, args.seconds)
                    continue
                own = ["--worker", library, "--cases", key, "--threads", str(args.threads)]
                peer = stack.enter_context(contextlib.closing(Asked(__file__, own)))
                measures[library] = lambda peer=peer: peer.measure(args.seconds)
            for index in range(args.rounds):
                order = libraries if index % 2 == 0 else libraries[::-1]
                rounds.append({library: pace.steady(measures[library]) for library in order})
                print(f"{key} round {index}: {json.dumps(rounds[-1])}", file=sys.stderr, flush=True)
        for library in libraries:
            ratios = [r[library]["images_per_second"] / r[libraries[0]]["images_per_second"] for r in rounds]
            speed = statistics.median(r[library]["images_per_second"] for r in rounds)
            peak = max(r[library]["peak_mb"] for r in rounds)
            print(f"| {key} | {library} | {speed:.1f} | {spread(ratios)} | {peak:.0f} |", flush=True)


if __name__ == "__main__":
    main()
