"""Processes that stay and measure when asked, for comparisons that alternate."""

import json
import subprocess
import sys
import tempfile


def serve(measure) -> None:
    """In the process that is asked: says that it is ready, then answers each line of stdin, a number of seconds, with
    what `measure` gives, as JSON."""
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(float(line))), flush=True)


class Asked:
    """A process of this Python that runs `script` with `arguments` and serves."""

    def __init__(self, script: str, arguments: list[str]):
        self.what = " ".join(arguments)
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [sys.executable, script, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True
        )
        self._line("ready")

    def _line(self, wanted: str) -> str:
        """The next line of stdout that begins with `wanted`."""
        for line in self.process.stdout:
            if line.startswith(wanted):
                return line
        self.errors.seek(0)
        sys.exit(f"{self.what} failed:\n{self.errors.read()[-2000:]}")

    def measure(self, seconds: float) -> dict:
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        return json.loads(self._line("{"))

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def peak_mb() -> float:
    """Most memory this process ever had."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def spread(ratios: list[float]) -> str:
    """Median (least–most)."""
    import statistics

    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
