"""Whether the memory of a run stays flat: `memory.py RUN UPDATES` reads the run's log.

Exit status 1 if an update is missing, or if the last tenth of the updates holds over 2 % more than the second tenth.
"""

import json
import sys
from pathlib import Path

run, updates = Path(sys.argv[1]), int(sys.argv[2])
lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
held = [line["memory_mb"] for line in lines if line["event"] == "train" and line["memory_mb"] is not None]
if len(held) < updates:
    sys.exit(f"{len(held)} of {updates} updates are in the log")
held = held[-updates:]
tenth = max(1, updates // 10)
early, late = max(held[tenth : 2 * tenth]), max(held[-tenth:])
print(f"{updates} updates: {early:.0f} MB in the second tenth, {late:.0f} MB in the last, {max(held):.0f} MB at most")
if late > 1.02 * early:
    sys.exit("the memory grows")
