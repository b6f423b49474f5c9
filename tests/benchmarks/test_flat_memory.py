"""Memory does not grow with the number of images: the small form of `benchmarks/memory.py`."""

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


def test_ten_times_the_images_take_no_more_memory(tmp_path):
    last = {}
    for count in (600, 6000):
        process = PROCESSES.Process(target=_score, args=(count, tmp_path / str(count)))
        process.start()
        process.join()
        assert process.exitcode == 0
        fields = (tmp_path / str(count)).read_text().split(",")
        assert int(fields[0]) == count
        last[count] = float(fields[2])
    # 5,400 rows more; a leak of a row's image and reconstruction would be 4 MB and more.
    assert last[6000] - last[600] < 4, last
