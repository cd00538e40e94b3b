"""vitrum's server beside FastAPI with timm: the same model, the same photos, the same client.

    /tmp/peers/bin/python benches/peers/serve.py model/ [--vitrum target/release/vitrum] [--rounds 3] [--seconds 10]

`model/` holds config.json and weights in timm's hub layout. `cargo build --release --workspace --examples` builds the
client. Two servers of Python: `fastapi` is what most people write, one image per request in a thread of the pool;
`fastapi-batches` gathers the images that wait, 32 at most, and computes them together. Both decode with PIL and prepare
with timm's transforms, in eval and inference mode, with two threads of torch.

Only the server that is asked runs; rounds alternate, forwards and backwards. First every server must say the same of
the same photo.
"""

import argparse
import asyncio
import contextlib
import io
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import urllib.request

VITRUM, PLAIN, BATCHES = "vitrum", "fastapi", "fastapi-batches"

# Images of a pass.
MOST = 32


def network(folder: str):
    """The model and timm's way from an image to its input."""
    import timm
    from safetensors.torch import load_file

    with open(os.path.join(folder, "config.json")) as file:
        card = json.load(file)
    model = timm.create_model(card["architecture"], num_classes=card.get("num_classes", 1000)).eval()
    model.load_state_dict(load_file(os.path.join(folder, "model.safetensors")))
    config = timm.data.resolve_data_config(card.get("pretrained_cfg", {}), model=model)
    return model, timm.data.create_transform(**config)


def application(kind: str, folder: str, threads: int):
    """A server that answers in vitrum's form."""
    import torch
    from fastapi import FastAPI, Request
    from fastapi.concurrency import run_in_threadpool
    from PIL import Image

    torch.set_num_threads(threads)
    model, transform = network(folder)

    def prepare(body: bytes):
        return transform(Image.open(io.BytesIO(body)).convert("RGB"))

    def compute(images: list) -> list[dict]:
        with torch.inference_mode():
            probs, classes = model(torch.stack(images)).softmax(1).topk(5)
        return [
            {"predictions": [{"index": index, "label": str(index), "prob": prob} for prob, index in zip(*of_image)]}
            for of_image in zip(probs.tolist(), classes.tolist())
        ]

    def one(body: bytes) -> dict:
        return compute([prepare(body)])[0]

    waiting: asyncio.Queue = asyncio.Queue()

    async def batches():
        while True:
            jobs = [await waiting.get()]
            while len(jobs) < MOST and not waiting.empty():
                jobs.append(waiting.get_nowait())
            try:
                answers = await run_in_threadpool(compute, [image for image, _ in jobs])
                for (_, future), answer in zip(jobs, answers):
                    future.done() or future.set_result(answer)
            except Exception as error:
                for _, future in jobs:
                    future.done() or future.set_exception(error)

    async def together(body: bytes) -> dict:
        image = await run_in_threadpool(prepare, body)
        future = asyncio.get_running_loop().create_future()
        waiting.put_nowait((image, future))
        return await future

    @contextlib.asynccontextmanager
    async def lifespan(_):
        task = asyncio.create_task(batches())
        yield
        task.cancel()

    app = FastAPI(lifespan=lifespan)

    @app.post("/predict")
    async def predict(request: Request):
        body = await request.body()
        answer = await (together(body) if kind == BATCHES else run_in_threadpool(one, body))
        return {"model": "timm", "results": [answer]}

    return app


def serve(kind: str, folder: str, threads: int) -> None:
    """Serves on a free port and says which."""
    import uvicorn

    app = application(kind, folder, threads)
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    print(f"serving timm on http://127.0.0.1:{listener.getsockname()[1]}", file=sys.stderr, flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])


@contextlib.contextmanager
def running(kind: str, args):
    """A server; gives its address."""
    if kind == VITRUM:
        command = [args.vitrum, "serve", args.model, "--port", "0", "--threads", str(args.threads)]
    else:
        command = [sys.executable, __file__, args.model, "--serve", kind, "--threads", str(args.threads)]
    # To a file: a pipe that is not read would fill up.
    with open(args.log, "w+") as log:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
        try:
            yield address(process, args.log)
        finally:
            process.terminate()
            process.wait()


def address(process: subprocess.Popen, log: str) -> str:
    """The address in the log of a server that begins."""
    import time

    while process.poll() is None:
        with open(log) as file:
            for line in file.read().splitlines(keepends=True):
                if " on http://" in line and line.endswith("\n"):
                    return "http://" + line.strip().rsplit("http://", 1)[1]
        time.sleep(0.05)
    with open(log) as file:
        sys.exit(f"the server ended:\n{file.read()[-2000:]}")


def photo() -> bytes:
    """A drawn JPEG."""
    from PIL import Image

    image = Image.radial_gradient("L").resize((300, 240))
    image = Image.merge("RGB", [image, image.rotate(90).transpose(Image.Transpose.FLIP_LEFT_RIGHT), image.rotate(180)])
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90)
    return out.getvalue()


def first(url: str) -> tuple[int, float]:
    """The likeliest class of the drawn photo, and its probability."""
    request = urllib.request.Request(f"{url}/predict", photo(), {"content-type": "image/jpeg"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        best = json.load(answer)["results"][0]["predictions"][0]
    return best["index"], best["prob"]


def measure(kind: str, args) -> dict:
    """One round of a server."""
    with running(kind, args) as url:
        answer = first(url)
        command = [args.load, "pace", "--url", url, "--seconds", str(args.seconds), "--format", "json"]
        done = subprocess.run(command, capture_output=True, text=True)
    if not done.stdout:
        sys.exit(f"{kind}: {done.stderr[-2000:]}")
    report = json.loads(done.stdout)
    for claim in report["claims"]:
        if not claim["holds"]:
            print(f"{kind}: {claim['claim']}: {claim['found']}", file=sys.stderr)
    return {"answer": answer, "rows": report["rows"]}


def processor() -> str:
    """The name of the processor."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def versions(args) -> str:
    """What was measured, and on what."""
    import fastapi
    import timm
    import torch
    import uvicorn

    own = subprocess.run([args.vitrum, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    names = [("torch", torch), ("timm", timm), ("fastapi", fastapi), ("uvicorn", uvicorn)]
    others = ", ".join(f"{name} {module.__version__}" for name, module in names)
    python = platform.python_version()
    return f"{own}; {others}, Python {python}; {os.cpu_count()} processors, {processor()}; {args.threads} threads"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--vitrum", default="target/release/vitrum")
    parser.add_argument("--load", default="target/release/examples/load")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--json", help="write every measurement here")
    parser.add_argument("--log", default="/tmp/serve.log", help="what the server that runs says")
    parser.add_argument("--serve", choices=[PLAIN, BATCHES], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(args.serve, args.model, args.threads)
    kinds = [VITRUM, PLAIN, BATCHES]
    seen = {kind: [] for kind in kinds}
    for index in range(args.rounds):
        for kind in kinds if index % 2 == 0 else kinds[::-1]:
            seen[kind].append(measure(kind, args))
            print(f"round {index + 1}: {kind}", file=sys.stderr, flush=True)
    if args.json:
        with open(args.json, "w") as file:
            json.dump(seen, file, indent=1)
    answers = {kind: rounds[0]["answer"] for kind, rounds in seen.items()}
    index, prob = answers[VITRUM]
    if any(other != index or abs(of_other - prob) > 0.02 for other, of_other in answers.values()):
        sys.exit(f"the servers do not agree: {answers}")
    print("| | " + " | ".join(kinds) + " |")
    print("|---|" + "---|" * len(kinds))
    for row, value in seen[VITRUM][0]["rows"].items():
        if not isinstance(value, (int, float)):
            continue
        medians = [statistics.median(one["rows"][row] for one in seen[kind]) for kind in kinds]
        print(f"| {row} | " + " | ".join(f"{median:.1f}" for median in medians) + " |")
    print(f"\nMedians of {args.rounds} rounds of {args.seconds:g} s for each line. {versions(args)}.")


if __name__ == "__main__":
    main()
