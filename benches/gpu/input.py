"""Two images for `vitrum forward`, one of them almost constant: `input.py SIDE FILE`. Needs nothing but Python."""

import json
import random
import struct
import sys

side, path = int(sys.argv[1]), sys.argv[2]
drawn = random.Random(1)
count = 3 * side * side
values = [drawn.gauss(0, 1) for _ in range(count)] + [0.3 + 1e-3 * drawn.gauss(0, 1) for _ in range(count)]
header = {"input": {"dtype": "F32", "shape": [2, 3, side, side], "data_offsets": [0, 8 * count]}}
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
with open(path, "wb") as file:
    file.write(struct.pack("<Q", len(text)) + text + struct.pack(f"<{2 * count}f", *values))
