"""Every comparison in one command: makes the environment, builds vitrum, runs all, writes tables and plots.

    python3 benches/peers/all.py [--venv /tmp/peers] [--output /tmp/peers-report] [--photos DIR] [--model DIR] [--only run,train]

About an hour on two cores; close everything else. `--photos` is a folder of photos and `--model` a folder with a real
ViT-Ti; without them the first answer and the way from photos to pixels are left out. The report is what BENCHMARKS.md
is made of.
"""

import argparse
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, default=Path("/tmp/peers"))
    parser.add_argument("--output", type=Path, default=Path("/tmp/peers-report"))
    parser.add_argument("--photos")
    parser.add_argument("--model")
    parser.add_argument("--only", default="run,bf16,int8,train,scale,data,start")
    parser.add_argument("--rounds", default="8")
    args = parser.parse_args()

    python = args.venv / "bin" / "python"
    if not python.exists():
        venv.create(args.venv, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "-r", HERE / "requirements.txt"], check=True)
    subprocess.run(["cargo", "build", "--release"], check=True, cwd=HERE.parent.parent)
    binary = ["--vitrum", str(HERE.parent.parent / "target" / "release" / "vitrum")]
    args.output.mkdir(parents=True, exist_ok=True)

    scripts = {
        "run": ["--rounds", args.rounds],
        "bf16": ["--rounds", args.rounds, "--precision", "bf16"],
        "int8": ["--rounds", args.rounds, "--precision", "int8"],
        "train": ["--rounds", "3", "--cases", "tiny32,small224,base224"],
        "scale": ["--plot", str(args.output / "scale.png")],
    }
    if args.photos:
        scripts["data"] = [args.photos]
        photo = next((p for p in sorted(Path(args.photos).rglob("*")) if p.suffix.lower() in {".jpg", ".jpeg"}), None)
        if args.model and photo:
            scripts["start"] = [str(photo), args.model]
    for name in ("run", "bf16", "int8"):
        scripts[name] += ["--json", str(args.output / f"{name}.json"), "--plot", str(args.output / f"{name}.png")]
    for name in args.only.split(","):
        if name not in scripts:
            print(f"{name}: left out", file=sys.stderr)
            continue
        report = args.output / f"{name}.md"
        with open(report, "w") as file:
            script = HERE / ("run.py" if name in ("bf16", "int8") else f"{name}.py")
            subprocess.run([python, script, *scripts[name], *binary], check=True, stdout=file)
        print(f"{report}:\n{report.read_text()}", flush=True)


if __name__ == "__main__":
    main()
