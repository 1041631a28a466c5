"""How far rounding may take a result: no number that one processor made is the truth on another.

A stored reference in float32 carries the rounding of the processor that made it. Our network in float64 does not, so
what is left between the two is the reference's own error, the same on every machine. How large that may be is measured
where the test runs: by how far float32 takes our network from itself in float64.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


ROUNDINGS = 8  # two processors round one network differently by their order of sums: measured 0.6 to 1.5 times as far


def relative_error(ours: Tensor, reference: Tensor) -> float:
    """`||ours - reference|| / ||reference||` in float64; the shapes must agree."""
    assert ours.shape == reference.shape
    return float((ours.double() - reference.double()).norm() / reference.double().norm())


@torch.no_grad()
def assert_computes(model: nn.Module, call: Callable[[torch.dtype], Tensor], reference: Tensor) -> None:
    """Assert that `call`, which runs `model` on inputs of a dtype, differs from a result by its rounding alone."""
    nn.Module.to(model, torch.float32)  # not a model's own `to`, which may warn
    rounded = call(torch.float32)
    nn.Module.to(model, torch.float64)
    exact = call(torch.float64)
    assert exact.dtype == torch.float64
    rounding = relative_error(rounded, exact)
    assert rounding < 1e-5, "the network must be well-conditioned, otherwise any result would do"
    assert relative_error(reference, exact) < ROUNDINGS * rounding
