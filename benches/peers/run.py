"""vitrum beside PyTorch, ONNX Runtime and OpenVINO: forward passes, alternating, in one process tree.

    python3 -m venv /tmp/peers && /tmp/peers/bin/pip install -r benches/peers/requirements.txt
    cargo build --release
    /tmp/peers/bin/python benches/peers/run.py --vitrum target/release/vitrum [--rounds 8] [--models NAME,…]

With `--precision int8` the peers are those that quantise without data to calibrate on: ONNX Runtime's dynamic
quantisation (weights int8 per channel and per tensor) and torch's; OpenVINO's int8 needs nncf and calibration, and is
left out. vitrum runs with `--precision int8`; torch eager in f32 stays the unit. So it does with `--precision bf16`,
where torch's model is in bf16 and OpenVINO is told to compute in it.

Every library has a process of its own that stays and is asked for a measurement (a median of several passes) once a
round, in turn, forwards and backwards; only the one asked works. The table gives medians over rounds of ratios within a
round, so that a machine that drifts does not decide. Same threads for all. OpenVINO's throughput hint has several
requests under way at once; beside it stands vitrum with as many streams as threads. The others answer one request after
the other, and beside them stands vitrum with one.

Two processors of a virtual machine can be lent as the two halves of one core, for seconds at a time. So before and
after each measurement `pace.py` looks whether all processors together do what they do alone; if not, whatever library
it is, the measurement waits or is taken again. How often that was stands below the table.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from asked import Asked, peak_mb, serve, spread
from network import create, side
from pace import Pace


def timed(step, seconds: float) -> float:
    """Median time of `step` over at least three passes and `seconds`."""
    import time

    step()
    times, end = [], time.perf_counter() + seconds
    while len(times) < 3 or (time.perf_counter() < end and len(times) < 500):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def answerer(library: str, name: str, batch: int, threads: int, folder: Path):
    """What answers one batch, once (one library, one model, in this process), and how many requests that is."""
    import numpy as np

    x = np.random.default_rng(0).standard_normal((batch, 3, side(name), side(name)), dtype=np.float32)
    onnx = folder / f"{name}-{batch}.onnx"
    if library.startswith("torch"):
        import torch

        torch.set_num_threads(threads)
        model = create(name, num_classes=1000).eval()
        tensor = torch.from_numpy(x)
        if library.startswith("torch-bf16"):
            model, tensor = model.to(torch.bfloat16), tensor.to(torch.bfloat16)
        if library == "torch.compile" or library == "torch-bf16-compile":
            model = torch.compile(model)
        if library == "torch-int8":
            import warnings

            warnings.simplefilter("ignore")
            model = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)

        def answer():
            with torch.inference_mode():
                model(tensor)

        return answer, 1
    if library.startswith("onnxruntime"):
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        onnx = onnx if library == "onnxruntime" else folder / f"{library}-{name}-{batch}.onnx"
        session = ort.InferenceSession(str(onnx), options, providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: x}
        return lambda: session.run(None, feed), 1
    import openvino as ov

    hint = "LATENCY" if library.endswith("latency") else "THROUGHPUT"
    precision = "bf16" if "-bf16-" in library else "f32"
    config = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": hint, "INFERENCE_PRECISION_HINT": precision}
    compiled = ov.Core().compile_model(str(onnx), "CPU", config)
    if hint == "LATENCY":
        return lambda: compiled(x), 1
    queue = ov.AsyncInferQueue(compiled)
    jobs = 2 * len(queue)

    def answer():
        for _ in range(jobs):
            queue.start_async(x)
        queue.wait_all()

    return answer, jobs


def worker(library: str, name: str, batch: int, threads: int, folder: Path) -> None:
    """Measures for as many seconds as each line of stdin says."""
    answer, jobs = answerer(library, name, batch, threads, folder)
    answer()
    serve(lambda seconds: {"seconds": timed(answer, seconds) / jobs, "peak_mb": peak_mb()})


def export(name: str, batch: int, peers: list[str], folder: Path) -> None:
    """The model as ONNX, and what is made of it in eight bits, for those who read that."""
    import logging
    import warnings

    import torch

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    onnx = folder / f"{name}-{batch}.onnx"
    model = create(name, num_classes=1000).eval()
    torch.onnx.export(model, (torch.zeros(batch, 3, side(name), side(name)),), onnx, dynamo=False, opset_version=17)
    for library in peers:
        if library.startswith("onnxruntime-int8"):
            from onnxruntime.quantization import QuantType, quantize_dynamic

            small = folder / f"{library}-{name}-{batch}.onnx"
            quantize_dynamic(onnx, small, weight_type=QuantType.QInt8, per_channel=library.endswith("channel"))


def vitrum(binary: str, name: str, batch: int, args, streams: int) -> dict:
    """One measurement in a process of its own."""
    command = [binary, "bench", "-q", "-m", name, "--batch-sizes", str(batch), "--threads", str(args.threads)]
    command += ["--precision", args.precision, "--streams", str(streams), "--format", "json"]
    command += ["--runs", "3", "--seconds", str(args.seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    row = json.loads(done.stdout)[0]
    row["seconds"] = batch / row["images_per_second"]
    return row


PEERS = {
    "f32": ["torch", "torch.compile", "onnxruntime", "openvino-latency", "openvino-throughput"],
    "bf16": ["torch", "torch-bf16", "torch-bf16-compile", "openvino-bf16-latency", "openvino-bf16-throughput"],
    "int8": ["torch", "torch-int8", "onnxruntime-int8-channel", "onnxruntime-int8-tensor"],
}
ONE, SEVERAL = "vitrum", "vitrum-streams"


def case(name: str, batch: int, peers: list[str], args, folder: str) -> dict:
    """All rounds of one model and one batch size."""
    subprocess.run([sys.executable, __file__, "--export", name, str(batch), ",".join(peers), folder], check=True)
    with contextlib.ExitStack() as stack:
        pace = stack.enter_context(contextlib.closing(Pace(args.threads)))
        running = {}
        for library in peers:
            own = ["--worker", library, name, str(batch), str(args.threads), folder]
            running[library] = stack.enter_context(contextlib.closing(Asked(__file__, own)))
        measures = {library: lambda peer=peer: peer.measure(args.seconds) for library, peer in running.items()}
        measures[ONE] = lambda: vitrum(args.vitrum, name, batch, args, 1)
        if any(peer.endswith("throughput") for peer in peers):
            measures[SEVERAL] = lambda: vitrum(args.vitrum, name, batch, args, args.threads)
        rounds = []
        for index in range(args.rounds):
            order = list(measures) if index % 2 == 0 else list(measures)[::-1]
            seen = {library: pace.steady(measures[library]) for library in order}
            rounds.append({library: seen[library] for library in measures})
        return {"model": name, "batch": batch, "rounds": rounds, "pace": pace.seen()}


def ratios(rounds: list[dict], library: str, other: str) -> list[float]:
    """How many times as fast as `other` the library was in each round."""
    return [seen[other]["seconds"] / seen[library]["seconds"] for seen in rounds]


def row(seen: dict) -> str:
    """The table's line."""
    rounds = seen["rounds"]
    libraries = list(rounds[0])
    speed = statistics.median(seen["batch"] / one["torch"]["seconds"] for one in rounds)
    cells = [seen["model"], str(seen["batch"]), f"{speed:.2f}"]
    for library in libraries[1:]:
        cells.append(spread(ratios(rounds, library, "torch")))
    several = [library for library in libraries if library.endswith("throughput")]
    one = [library for library in libraries if library not in [*several, ONE, SEVERAL]]
    for own, others in ((ONE, one), (SEVERAL, several)):
        if others:
            to_best = min((statistics.median(ratios(rounds, own, other)), other) for other in others)[1]
            cells.append(f"{spread(ratios(rounds, own, to_best))} of {to_best}")
    memory = [f"{statistics.median(one[library]['peak_mb'] for one in rounds):.0f}" for library in libraries]
    if "share_of_peak" in rounds[0][ONE]:
        cells.append(spread([one[own]["share_of_peak"] for one in rounds for own in (ONE, SEVERAL) if own in one]))
    return "| " + " | ".join([*cells, ", ".join(memory)]) + " |"


def draw(everything: list[dict], path: str) -> None:
    """Speeds as multiples of torch eager's, a group of bars for each case."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    libraries = list(everything[0]["rounds"][0])
    figure, axis = plt.subplots(figsize=(11, 4.2), constrained_layout=True)
    width = 0.85 / len(libraries)
    grays = plt.get_cmap("Greys")
    for index, library in enumerate(libraries):
        of_cases = [ratios(seen["rounds"], library, "torch") for seen in everything]
        middle = [statistics.median(of_rounds) for of_rounds in of_cases]
        # The middle half of the rounds.
        quartiles = [statistics.quantiles(of_rounds, n=4) if len(of_rounds) > 1 else of_rounds * 3 for of_rounds in of_cases]
        errors = [[max(m - q[0], 0) for m, q in zip(middle, quartiles)], [max(q[2] - m, 0) for m, q in zip(middle, quartiles)]]
        blue = {ONE: "tab:blue", SEVERAL: "tab:cyan"}
        color = blue.get(library, grays(0.25 + 0.5 * index / len(libraries)))
        places = [case + (index - (len(libraries) - 1) / 2) * width for case in range(len(everything))]
        axis.bar(places, middle, width, yerr=errors, ecolor="black", capsize=2, color=color, label=library)
    short = {"tiny": "ViT-Ti/16", "small": "ViT-S/16", "base": "ViT-B/16"}
    names = [short.get(seen["model"].split("_")[1], seen["model"]) for seen in everything]
    axis.set_xticks(range(len(everything)), [f"{name}\nbatch {seen['batch']}" for name, seen in zip(names, everything)])
    axis.set_ylabel("speed, torch eager = 1")
    axis.grid(axis="y", alpha=0.3)
    axis.legend(ncols=4, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.16), frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vitrum", default="target/release/vitrum")
    parser.add_argument("--models", default="vit_tiny_patch16_224,vit_small_patch16_224,vit_base_patch16_224")
    parser.add_argument("--batch-sizes", default="1,8")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--precision", choices=PEERS, default="f32")
    parser.add_argument("--peers", help="names with commas between; torch first")
    parser.add_argument("--json", help="write every measurement here")
    parser.add_argument("--plot", help="draw the table's ratios here")
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--export", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        library, name, batch, threads, folder = args.worker
        return worker(library, name, int(batch), int(threads), Path(folder))
    if args.export:
        name, batch, peers, folder = args.export
        return export(name, int(batch), peers.split(","), Path(folder))
    peers = args.peers.split(",") if args.peers else PEERS[args.precision]
    throughput = any(peer.endswith("throughput") for peer in peers)
    columns = ["model", "batch", "torch eager, images/s", *peers[1:], ONE, *[SEVERAL] * throughput]
    columns += ["vitrum to the best, one request", *["vitrum to the best, several"] * throughput, "vitrum, of the FMA peak"]
    columns.append("MB: " + ", ".join([*peers, ONE, *[SEVERAL] * throughput]))
    print("|", " | ".join(columns), "|")
    print("|" + "---|" * len(columns), flush=True)
    everything = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.models.split(","):
            for batch in map(int, args.batch_sizes.split(",")):
                everything.append(case(name, batch, peers, args, folder))
                print(row(everything[-1]), flush=True)
                if args.json:
                    Path(args.json).write_text(json.dumps(everything, indent=1))
    if args.plot:
        draw(everything, args.plot)
    total = {key: sum(seen["pace"][key] for seen in everything) for key in everything[0]["pace"]}
    print(f"\nMeasurements: {total['measured']}; taken again: {total['again']}; kept all the same: {total['kept']}.")


if __name__ == "__main__":
    main()
