"""Memory does not grow with the number of images: a small form of `benchmarks/memory.py`."""

import contextlib
import sys
from pathlib import Path

from tests.helpers.scoring_processes import PROCESSES

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def _score(count, output):
    sys.path.insert(0, str(BENCHMARKS))
    from memory import score

    with output.open("w") as file, contextlib.redirect_stdout(file):
        score(count)


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    last = {}
    for count in (600, 6000):
        process = PROCESSES.Process(target=_score, args=(count, tmp_path / str(count)))
        process.start()
        process.join()
        assert process.exitcode == 0
        fields = (tmp_path / str(count)).read_text().split(",")
        assert int(fields[0]) == count
        last[count] = float(fields[2])
    # 5,400 more rows: leaking the image and reconstruction of each would take 4 MB or more.
    assert last[6000] - last[600] < 4, last
