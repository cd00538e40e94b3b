"""vitrum beside PyTorch, ONNX Runtime and OpenVINO: forward passes, alternating, in one process tree.

    python3 -m venv /tmp/peers && /tmp/peers/bin/pip install -r benches/peers/requirements.txt
    cargo build --release
    /tmp/peers/bin/python benches/peers/run.py --vitrum target/release/vitrum [--rounds 5] [--models NAME,…]

With `--precision int8` the peers are those that quantise without data to calibrate on: ONNX Runtime's dynamic
quantisation (weights int8 per channel and per tensor) and torch's; OpenVINO's int8 needs nncf and calibration, and is
left out. vitrum runs with `--precision int8`; torch eager in f32 stays the unit.

Every round measures every library once (a median of several passes each); the table gives the median over rounds of the
ratio to PyTorch eager of the same round, so that a machine that drifts does not decide. Same threads for all. Every
library runs in a process of its own, so that no pool of threads disturbs another.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path


def timed(step, seconds: float) -> float:
    """Median time of `step` over at least five passes and `seconds`."""
    import time

    for _ in range(2):
        step()
    times, end = [], time.perf_counter() + seconds
    while len(times) < 5 or (time.perf_counter() < end and len(times) < 200):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def peak_mb() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def worker(library: str, name: str, batch: int, threads: int, seconds: float, folder: Path) -> dict:
    """One library, one model, one batch size, in this process."""
    import numpy as np

    x = np.random.default_rng(0).standard_normal((batch, 3, 224, 224), dtype=np.float32)
    onnx = folder / f"{name}-{batch}.onnx"
    if library.startswith("onnxruntime-int8"):
        import logging

        from onnxruntime.quantization import QuantType, quantize_dynamic

        small = folder / f"{library}-{name}-{batch}.onnx"
        if not small.exists():
            logging.disable(logging.WARNING)
            quantize_dynamic(onnx, small, weight_type=QuantType.QInt8, per_channel=library.endswith("channel"))
        if seconds == 0:
            return {}
        onnx, library = small, "onnxruntime"
    if library.startswith("torch") or library == "export":
        import timm
        import torch

        torch.set_num_threads(threads)
        model = timm.create_model(name, num_classes=1000).eval()
        tensor = torch.from_numpy(x)
        if library == "export":
            torch.onnx.export(model, (tensor,), onnx, dynamo=False, opset_version=17)
            return {}
        if library == "torch.compile":
            model = torch.compile(model)
        if library == "torch-int8":
            import warnings

            warnings.simplefilter("ignore")
            model = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
        with torch.inference_mode():
            seconds = timed(lambda: model(tensor), seconds)
    elif library == "onnxruntime":
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        session = ort.InferenceSession(str(onnx), options, providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: x}
        seconds = timed(lambda: session.run(None, feed), seconds)
    else:
        import openvino as ov

        hint = "LATENCY" if library.endswith("latency") else "THROUGHPUT"
        config = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": hint, "INFERENCE_PRECISION_HINT": "f32"}
        compiled = ov.Core().compile_model(str(onnx), "CPU", config)
        if hint == "LATENCY":
            seconds = timed(lambda: compiled(x), seconds)
        else:
            queue = ov.AsyncInferQueue(compiled)
            jobs = 2 * len(queue)

            def step():
                for _ in range(jobs):
                    queue.start_async(x)
                queue.wait_all()

            seconds = timed(step, seconds) / jobs
    return {"seconds": seconds, "peak_mb": peak_mb()}


def vitrum(binary: str, name: str, batch: int, threads: int, runs: int, precision: str) -> dict:
    command = [binary, "bench", "-q", "-m", name, "--batch-sizes", str(batch), "--threads", str(threads)]
    command += ["--precision", precision]
    command = ["/usr/bin/time", "-f", "%M"] + command if Path("/usr/bin/time").exists() else command
    done = subprocess.run(command + ["--runs", str(runs), "--format", "json"], capture_output=True, text=True, check=True)
    last = done.stderr.strip().splitlines()[-1:] or ["0"]
    peak = float(last[0]) / 1024 if last[0].isdigit() else float("nan")
    return {"seconds": json.loads(done.stdout)[0]["median_ms"] / 1e3, "peak_mb": peak}


PEERS = {
    "f32": ["torch", "torch.compile", "onnxruntime", "openvino-latency", "openvino-throughput"],
    "int8": ["torch", "torch-int8", "onnxruntime-int8-channel", "onnxruntime-int8-tensor"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vitrum", default="target/release/vitrum")
    parser.add_argument("--models", default="vit_tiny_patch16_224,vit_small_patch16_224,vit_base_patch16_224")
    parser.add_argument("--batch-sizes", default="1,8")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--precision", choices=PEERS, default="f32")
    parser.add_argument("--peers", help="names with commas between; torch first")
    parser.add_argument("--json", help="write every measurement here")
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        library, name, batch, threads, folder = args.worker
        result = worker(library, name, int(batch), int(threads), args.seconds, Path(folder))
        print(json.dumps(result))
        return
    peers = args.peers.split(",") if args.peers else PEERS[args.precision]
    everything = []
    with tempfile.TemporaryDirectory() as folder:

        def ask(library, name, batch, seconds=args.seconds):
            own = ["--worker", library, name, str(batch), str(args.threads), folder, "--seconds", str(seconds)]
            done = subprocess.run([sys.executable, __file__] + own, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{library} {name} batch {batch} failed:\n{done.stderr[-2000:]}")
            return json.loads(done.stdout.strip().splitlines()[-1])

        print("| model | batch | torch eager, images/s |", " | ".join([*peers[1:], "vitrum"]), "| MB:", ", ".join([*peers, "vitrum"]), "|")
        print("|---|---|---|" + "---|" * (len(peers) + 1))
        for name in args.models.split(","):
            for batch in map(int, args.batch_sizes.split(",")):
                ask("export", name, batch)
                for peer in peers:
                    if peer.startswith("onnxruntime-int8"):
                        ask(peer, name, batch, 0)  # quantises, so that its memory is not measured
                rounds = []
                for _ in range(args.rounds):
                    seen = {peer: ask(peer, name, batch) for peer in peers}
                    seen["vitrum"] = vitrum(args.vitrum, name, batch, args.threads, 10 if batch == 1 else 5, args.precision)
                    rounds.append(seen)
                everything.append({"model": name, "batch": batch, "rounds": rounds})
                eager = statistics.median(batch / seen["torch"]["seconds"] for seen in rounds)
                cells = []
                for library in [*peers[1:], "vitrum"]:
                    ratios = sorted(seen["torch"]["seconds"] / seen[library]["seconds"] for seen in rounds)
                    cells.append(f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})")
                memory = [f"{statistics.median(s[library]['peak_mb'] for s in rounds):.0f}" for library in [*peers, "vitrum"]]
                print(f"| {name} | {batch} | {eager:.2f} |", " | ".join(cells), "|", ", ".join(memory), "|", flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
