"""FLOP/s of a large U-Net relative to a matrix product on the same machine.

    python benchmarks/roofline.py --output roofline.json

runs a 256×256 U-Net of the paper's size (random weights) in several precisions, plain,
channels-last and compiled, and prints its FLOP/s next to those of a large matrix product in the
same precision. It is meant for a GPU; `--side 32 --width 32 --matrix 512` tries it out anywhere.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from subjects import paper_unet
from torch.utils.flop_counter import FlopCounterMode

from diffguard.engine.acceleration import accelerate

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Accelerations of the plain network, each with those before it.
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "channels-last": {"channels_last": True},
    "compiled": {"channels_last": True, "compile": True},
    "compiled, CUDA graphs": {"channels_last": True, "compile": "reduce-overhead"},
}


def seconds(call: Callable[[], object], device: torch.device, least: float) -> float:
    """Median time of a call, after two warm-up calls."""
    times: list[float] = []
    for number in range(1000):
        began = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if number >= 2:
            times.append(time.perf_counter() - began)
        if len(times) >= 3 and sum(times) > least:
            break
    return sorted(times)[len(times) // 2]


def matrix_flops(size: int, dtype: torch.dtype, device: torch.device, least: float) -> float:
    """FLOP/s of a product of two square matrices."""
    a, b = torch.randn(2, size, size, device=device, dtype=dtype)
    return 2 * size**3 / seconds(lambda: a @ b, device, least)


def network_flops(
    arguments: argparse.Namespace, variant: str, dtype: torch.dtype, device: torch.device
) -> dict[str, Any]:
    """FLOP/s and images per second of a network pass."""
    torch.manual_seed(0)
    network = paper_unet(arguments.side, arguments.width).to(device)
    size, side = arguments.batch_size, arguments.side
    x = torch.randn(size, 3, side, side, device=device)
    t = torch.full((size,), 500, device=device)

    def call() -> object:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return network(x, t)

    with torch.inference_mode():
        counter = FlopCounterMode(display=False)
        with counter:
            call()
        flops = counter.get_total_flops()
        accelerate(network, **VARIANTS[variant])
        duration = seconds(call, device, arguments.seconds)
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "flops_per_image": flops / size,
        "flops_per_second": flops / duration,
        "passes_per_second": size / duration,
    }


def main(argv: Sequence[str]) -> int:
    """Measure every precision and variant, print the table and write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--width", type=int, default=256, help="channels of the first stage")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--matrix", type=int, default=8192, help="side of the matrices")
    parser.add_argument("--seconds", type=float, default=3.0, help="minimum time of a measurement")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--output", type=Path, default=Path("roofline.json"))
    arguments = parser.parse_args(argv)
    device = torch.device(arguments.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, {arguments.batch_size} images per pass")
    print("| precision | network | TFLOP/s | of a matrix product | passes/s | parameters |")
    print("| --- | --- | --- | --- | --- | --- |")
    results = []
    for precision, dtype in DTYPES.items():
        peak = matrix_flops(arguments.matrix, dtype, device, arguments.seconds)
        print(f"| {precision} | matrix product | {peak / 1e12:.4g} | 100% | | |", flush=True)
        for variant in arguments.variants:
            if device.type == "cpu" and VARIANTS[variant].get("compile") == "reduce-overhead":
                continue
            figures = network_flops(arguments, variant, dtype, device)
            results.append({"precision": precision, "network": variant, "matrix": peak, **figures})
            share = figures["flops_per_second"] / peak
            print(
                f"| {precision} | {variant} | {figures['flops_per_second'] / 1e12:.4g} | "
                f"{share:.0%} | {figures['passes_per_second']:.4g} | "
                f"{figures['parameters'] / 1e6:.1f}M |",
                flush=True,
            )
    content = {"device": name, "torch": torch.__version__, "rows": results}
    arguments.output.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
