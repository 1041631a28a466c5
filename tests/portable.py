"""The numeric tests under several instruction sets, as if on other processors; `make test-portable` runs it.

PyTorch, oneDNN and MKL choose their kernels by what the processor has, and each sums in an order of its own. Every run
below holds them to one choice, in a process of its own. What this processor does not have is named and left out.
"""

import os
import subprocess
import sys
from dataclasses import dataclass

import torch


LEVELS = ("DEFAULT", "AVX2", "AVX512")  # as torch names them, from poor to rich
# fmt: off
SETTINGS = {  # what each level means to the three libraries
    "DEFAULT": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41",       "MKL_CBWR": "COMPATIBLE"},
    "AVX2":    {"ATEN_CPU_CAPABILITY": "avx2",    "ONEDNN_MAX_CPU_ISA": "AVX2",        "MKL_CBWR": "AVX2"},
    "AVX512":  {"ATEN_CPU_CAPABILITY": "avx512",  "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
}
# fmt: on


@dataclass(frozen=True)
class Dispatch:
    """Instruction sets up to a level, or `None` for what the libraries choose themselves, on so many threads."""

    level: str | None
    threads: int

    @property
    def settings(self) -> dict[str, str]:
        return SETTINGS[self.level] if self.level else {}

    def __str__(self) -> str:
        named = " ".join(f"{name}={value}" for name, value in self.settings.items()) or "as the libraries choose"
        return f"{named}, {self.threads} thread{'s' if self.threads > 1 else ''}"


DISPATCHES = [Dispatch(level, threads) for level in (*LEVELS, None) for threads in (1, 2)]


def richest_level() -> str:
    """The richest level of this processor, whatever the shell asks for."""
    code = "import torch; print(torch.backends.cpu.get_cpu_capability())"
    return subprocess.run(
        [sys.executable, "-c", code], env=unset(), check=True, capture_output=True, text=True
    ).stdout.strip()


def unset() -> dict[str, str]:
    """This environment without the variables that a dispatch sets."""
    names = {name for settings in SETTINGS.values() for name in settings}
    return {name: value for name, value in os.environ.items() if name not in names}


def outcome(dispatch: Dispatch, richest: str, arguments: list[str]) -> str:
    """Run the tests, and say in a few words how they ended."""
    if dispatch.level and LEVELS.index(dispatch.level) > LEVELS.index(richest):
        return "not tried, the processor does not have it"
    print(f"\n== {dispatch}", flush=True)
    command = [sys.executable, "-m", "pytest", "-q", "-m", "numeric and not slow and not gpu"]
    environment = unset() | dispatch.settings | {"OMP_WAIT_POLICY": "PASSIVE"}  # a thread that spins starves the other
    done = subprocess.run([*command, f"--threads={dispatch.threads}", *arguments], env=environment)
    return "passed" if done.returncode == 0 else f"FAILED (pytest ended with {done.returncode})"


def main(arguments: list[str]) -> int:
    """Try all dispatches with further arguments of pytest; 1 if one failed, as exit status."""
    richest = richest_level()
    outcomes = {dispatch: outcome(dispatch, richest, arguments) for dispatch in DISPATCHES}
    print(f"\ntorch {torch.__version__}, a processor with {richest}:")
    for dispatch, words in outcomes.items():
        print(f"  {dispatch}: {words}")
    return int(any("FAILED" in words for words in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
