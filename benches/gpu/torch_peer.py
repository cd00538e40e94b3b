"""images/s and memory of timm's models in torch, eager and compiled, in the words of `vitrum bench`.

    python3 torch_peer.py --models vit_small_patch16_224 --device cuda --precision bf16 --forward 1,64 --train 64

f32 products may use TF32, as vitrum's do on a GPU. bf16 is autocast, for training with weights in f32. A training step is
forward, cross entropy, backward and fused AdamW on a batch that is on the device; a pass ends when its result is read.
"""

import argparse
import statistics
import time

import timm
import torch


def timed(step, device: str, tiny: bool) -> list[float]:
    runs, warmup = (2, 1) if tiny else (20, 5)
    for _ in range(warmup):
        step()
    times = []
    for _ in range(runs):
        begin = time.perf_counter()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--forward", default="1,8,64,256")
    parser.add_argument("--train", default="64,128")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    narrow = torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16")
    print(f"torch {torch.__version__}, timm {timm.__version__}, {torch.cuda.get_device_name() if args.device == 'cuda' else 'cpu'}")
    print("| model | library | pass | precision | batch | median ms | images/s | peak MB |\n|---|---|---|---|---|---|---|---|")
    for name in args.models:
        for library in ["eager", "compile"]:
            if args.tiny and library == "compile":
                continue
            for kind, batches in [("forward", args.forward), ("train", args.train)]:
                for batch in map(int, batches.split(",")):
                    torch.manual_seed(0)
                    model = timm.create_model(name).to(args.device).train(kind == "train")
                    run = torch.compile(model) if library == "compile" else model
                    side = model.default_cfg["input_size"][-1]
                    images = torch.randn(batch, 3, side, side, device=args.device)
                    labels = torch.arange(batch, device=args.device) % model.num_classes
                    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05, fused=True)

                    def forward() -> float:
                        with torch.inference_mode(), narrow:
                            return run(images).float().sum().item()

                    def train() -> float:
                        optimizer.zero_grad(set_to_none=True)
                        with narrow:
                            loss = torch.nn.functional.cross_entropy(run(images).float(), labels)
                        loss.backward()
                        optimizer.step()
                        return loss.item()

                    if args.device == "cuda":
                        torch.cuda.empty_cache()
                        torch.cuda.reset_peak_memory_stats()
                    median = statistics.median(timed(forward if kind == "forward" else train, args.device, args.tiny))
                    peak = f"{torch.cuda.max_memory_reserved() / 2**20:.0f}" if args.device == "cuda" else "-"
                    print(
                        f"| {name} | {library} | {kind} | {args.precision} | {batch} | {1e3 * median:.2f} |"
                        f" {batch / median:.1f} | {peak} |",
                        flush=True,
                    )
                    del model, run, optimizer


if __name__ == "__main__":
    main()
