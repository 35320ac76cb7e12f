"""Run the tests as other processors would: with every instruction set that this one has, on one thread and on two.

    python tests/on_every_machine.py [pytest's arguments]

CPU kernels are chosen by instruction set, and each rounds in its own way. ``-m bits`` runs the tests that assert equal
bits of different ways to compute the same, in seconds; without it all tests are run, in minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys

import torch

LEVELS = {  # as torch, oneDNN and MKL call what they may use
    "default": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "avx512": {
        "ATEN_CPU_CAPABILITY": "avx512",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
    },
}
THREADS = 1, 2


def levels_here() -> list[str]:
    """Those that this processor has."""
    best = torch.backends.cpu.get_cpu_capability().lower()
    known = list(LEVELS)
    return known[: known.index(best) + 1] if best in known else ["default"]


def main() -> int:
    failed = []
    for level in levels_here():
        for threads in THREADS:
            print(f"--- instruction set {level}, threads {threads}", flush=True)
            environment = os.environ | LEVELS[level]
            environment |= {"OMP_NUM_THREADS": str(threads), "GAN_INFLUENCE_TEST_THREADS": str(threads)}
            ran = subprocess.run([sys.executable, "-m", "pytest", "-q", *sys.argv[1:]], env=environment, check=False)
            if ran.returncode:
                failed.append(f"{level}, threads {threads}")
    print("green everywhere" if not failed else f"failed with {'; '.join(failed)}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
