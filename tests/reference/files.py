"""Reads the reference files by the grammar of their names, and keeps account of every array.

Keys are `[<X>_][<case>__]<name>`: an upper-case prefix marks a further data set of the same form in
the same file, a name without a case is shared by all cases of its data set.
"""

import os
import re
from pathlib import Path

import numpy as np
import torch

# Not compared: the program's choice among distances, libraries' own columns, another FPR formula.
EXEMPT = re.compile(
    r"(.*_)?take_best__\w+|.+__(torchmetrics_\w+|fpr_quantile_strict|fpr_threshold)"
)
NETWORK = re.compile(r"(.+_)?(net|cls)")
PREFIX = re.compile(r"[A-Z][A-Za-z0-9]*_")
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}


def folder():
    """Where the files lie: DIFFGUARD_REFERENCE, or the copy beside this file."""
    return Path(os.environ.get("DIFFGUARD_REFERENCE") or Path(__file__).parents[1] / "reference")


def parse(pattern, name):
    """Take a name apart; parts that it lacks are None."""
    match = re.fullmatch(pattern, name)
    assert match, f"{name} does not follow the grammar of the names"
    return match.groups()


class GroupFile:
    """One file, with account of the keys that were read and of those that were compared."""

    def __init__(self, group):
        with np.load(folder() / f"{group}.npz", allow_pickle=False) as archive:
            self.arrays = {key: archive[key] for key in archive.files}
        self.read = set()
        self.compared = set()

    def data_sets(self, dtype):
        """The data sets of the file, to be checked in one precision."""
        matches = (PREFIX.match(key) for key in self.arrays)
        return [DataSet(self, p, dtype) for p in sorted({m.group() if m else "" for m in matches})]

    def unaccounted(self):
        """Keys that were neither compared, nor used as input, nor exempt."""
        left = set(self.arrays) - self.compared - self.read
        return sorted(key for key in left if not EXEMPT.fullmatch(key))


class DataSet:
    """One data set of a file; `dtype` is the precision in which the method runs.

    Attributes:
        cases: Names before `__`.
        networks: The same for those of networks.
        shared: Names without a case.
    """

    def __init__(self, file, prefix, dtype):
        self.file, self.prefix, self.dtype = file, prefix, dtype
        names = [key.removeprefix(prefix) for key in file.arrays if self._owns(key)]
        heads = list(dict.fromkeys(key.rpartition("__")[0] for key in names if "__" in key))
        self.networks = [head for head in heads if NETWORK.fullmatch(head)]
        self.cases = [head for head in heads if head not in self.networks]
        self.shared = [key for key in names if "__" not in key]

    def _owns(self, key):
        match = PREFIX.match(key)
        return (match.group() if match else "") == self.prefix

    def _find(self, name, cases):
        names = [*(f"{case}__{name}" for case in cases), name]
        candidates = [*(self.prefix + key for key in names), name]
        return next((key for key in candidates if key in self.file.arrays), None)

    def has(self, name, case):
        """Whether the case itself has an array."""
        return f"{self.prefix}{case}__{name}" in self.file.arrays

    def weights(self, case, kind):
        """Weights of `<case>_<kind>` where it exists, else of the `<kind>` that serves all."""
        network = f"{case}_{kind}" if f"{case}_{kind}" in self.networks else kind
        head = f"{self.prefix}{network}__"
        names = [key.removeprefix(head) for key in self.file.arrays if key.startswith(head)]
        return {name: self.tensor(name, network) for name in names}

    def raw(self, name, *cases):
        """An input, of the first of the cases that has it, or shared; a tensor as it is stored."""
        key = self._find(name, cases)
        assert key is not None, f"{self.prefix}{cases} has no {name}"
        self.file.read.add(key)
        array = self.file.arrays[key]
        return array if array.dtype.kind == "U" else torch.from_numpy(array)

    def tensor(self, name, *cases):
        """An input; floating-point values in the precision of this run."""
        value = self.raw(name, *cases)
        return value.to(self.dtype) if value.is_floating_point() else value

    def setting(self, name, *cases, default=None):
        """A scalar input as a Python value; the default where no case has it."""
        if default is not None and self._find(name, cases) is None:
            return default
        return self.raw(name, *cases).item()

    def step(self, case, **values):
        """Compare what took one step: 1e-6 in float64, 1e-3 in float32."""
        self._compare(case, values, TOLERANCE[self.dtype])

    def trajectory(self, case, **values):
        """Compare what took many steps: 1e-6 in float64, only finite in float32."""
        self._compare(case, values, 1e-6 if self.dtype == torch.float64 else float("inf"))

    def exact(self, case, **values):
        """Compare a discrete outcome."""
        self._compare(case, values, 0.0)

    def _compare(self, case, values, tolerance):
        for name, value in values.items():
            key = f"{self.prefix}{case}__{name}" if case else f"{self.prefix}{name}"
            if key not in self.file.arrays:
                continue
            expected = torch.from_numpy(np.asarray(self.file.arrays[key])).double()
            value = torch.as_tensor(value).double()
            assert value.shape == expected.shape, f"{key}: {value.shape}, not {expected.shape}"
            assert value.isfinite().all(), f"{key} is not finite"
            difference = (value - expected).abs() / expected.abs().clamp(min=1.0)
            worst = float(difference.max()) if difference.numel() else 0.0
            assert worst <= tolerance, f"{key} differs by {worst:g}, allowed is {tolerance:g}"
            self.file.compared.add(key)
