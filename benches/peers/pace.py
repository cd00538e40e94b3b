"""Whether the processors of this machine are whole cores just now.

    /tmp/peers/bin/python benches/peers/pace.py [--seconds 30]      # how much of the time they are

One process per processor multiplies small matrices, first alone, then all at once. On processors of their own, all
together do as many times as much as one alone. A virtual machine's two processors can be two halves of one core for
some seconds: then each gets half of it, while the system reports neither waiting nor stolen time.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

# Together, of what each does alone, below which the processors are not whole.
WHOLE = 0.75


def work() -> None:
    """Multiplies for as many seconds as each line of stdin says, and answers with products per second."""
    import numpy as np

    a = np.ones((192, 192), dtype=np.float32)
    for line in sys.stdin:
        seconds, count, begin = float(line), 0, time.perf_counter()
        while time.perf_counter() - begin < seconds:
            a @ a
            count += 1
        print(count / (time.perf_counter() - begin), flush=True)


class Pace:
    """Measures while the processors are whole cores."""

    def __init__(self, threads: int):
        one = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.counts = {"measured": 0, "again": 0, "kept": 0}
        self.workers = [
            subprocess.Popen(
                [sys.executable, __file__, "--work"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=one
            )
            for _ in range(threads if threads > 1 else 0)
        ]

    def ask(self, workers, seconds: float) -> float:
        for worker in workers:
            worker.stdin.write(f"{seconds}\n")
            worker.stdin.flush()
        return sum(float(worker.stdout.readline()) for worker in workers)

    def share(self, seconds: float = 0.01) -> float:
        """What all do together, of the sum of what each does alone."""
        if not self.workers:
            return 1.0
        alone = sum(self.ask([worker], seconds) for worker in self.workers)
        return self.ask(self.workers, seconds) / alone

    def whole(self) -> bool:
        """By the best of three looks, since anything else that runs for a moment disturbs one."""
        return any(self.share() >= WHOLE for _ in range(3))

    def steady(self, measure, attempts: int = 5):
        """What `measure` gives in a stretch of whole cores; the last attempt counts in any case."""
        self.counts["measured"] += 1
        for attempt in range(attempts):
            end = time.monotonic() + 60
            while not self.whole() and time.monotonic() < end:
                time.sleep(0.2)
            result = measure()
            if self.whole():
                return result
            if attempt + 1 < attempts:
                self.counts["again"] += 1
        self.counts["kept"] += 1
        return result

    def seen(self) -> dict:
        """How many were measured, taken again, and kept although the cores were not whole."""
        return self.counts

    def close(self) -> None:
        for worker in self.workers:
            worker.stdin.close()
            worker.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        return work()
    pace, shares, end = Pace(args.threads), [], time.monotonic() + args.seconds
    while time.monotonic() < end:
        shares.append(pace.share())
    pace.close()
    whole = sum(share >= WHOLE for share in shares) / len(shares)
    print(f"{100 * whole:.0f} % of {len(shares)} looks found whole cores; median {statistics.median(shares):.2f}")


if __name__ == "__main__":
    main()
