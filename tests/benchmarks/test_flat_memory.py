"""Memory does not grow with the number of images: a small form of `benchmarks/memory.py`."""

import contextlib
import json
import sys
from itertools import pairwise
from pathlib import Path
from statistics import median

from tests.helpers.scoring_processes import PROCESSES

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def _score(count, output):
    sys.path.insert(0, str(BENCHMARKS))
    import memory

    values, resident = [], memory.resident

    def recorded():
        values.append(resident())
        return values[-1]

    memory.resident = recorded
    with contextlib.redirect_stdout(None):
        memory.score(count)
    output.write_text(json.dumps(values))


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    output = tmp_path / "memory.json"
    process = PROCESSES.Process(target=_score, args=(6000, output))
    process.start()
    process.join()
    assert process.exitcode == 0
    values = json.loads(output.read_text())
    assert len(values) > 10
    # 512 more rows each time: leaking the image and the reconstruction of each takes 0.5 MB or
    # more. The median ignores the few steps by which an allocator grows.
    increments = [after - before for before, after in pairwise(values)]
    assert median(increments) < 0.25, values
