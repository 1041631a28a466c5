import pytest
import torch
from torch import nn

from diffusers_jova.allocation_count import ValuelessRuns


def test_tensors_count_while_somebody_holds_them_and_views_never() -> None:
    def work() -> torch.Tensor:
        first = torch.empty(100, 10)  # 4000 bytes
        second = first.to(torch.float16)  # 2000
        del first
        third = second.view(-1)[:500] + 1  # 1000
        return third.t()

    assert ValuelessRuns([]).count(work).peak_bytes == 6000
    assert ValuelessRuns([]).count(lambda: work() + 1).peak_bytes == 6000


def test_weights_are_no_part_of_the_peak_and_products_are_counted() -> None:
    with torch.device("meta"):
        layer = nn.Linear(64, 32)
    runs = ValuelessRuns([layer])
    counted = runs.count(lambda: layer(torch.empty(10, 64)))
    assert counted.peak_bytes == 4 * 10 * (64 + 32)
    assert counted.operations == 2 * 10 * 64 * 32
    assert runs.count(lambda: layer(torch.empty(20, 64))).peak_bytes == 2 * counted.peak_bytes  # nothing is left over


def test_attention_holds_no_square_of_its_rows() -> None:
    rows, width = 4096, 64

    def attend() -> torch.Tensor:
        query = torch.empty(1, 2, rows, width)
        return nn.functional.scaled_dot_product_attention(query, query, query)

    counted = ValuelessRuns([]).count(attend)
    assert counted.operations == 2 * 2 * 2 * rows * rows * width
    assert counted.peak_bytes < 4 * 2 * rows * width * 2.1 < 4 * rows * rows


def test_code_that_asks_for_a_truth_value_gets_one_and_for_a_number_none() -> None:
    assert ValuelessRuns([]).count(lambda: (torch.empty(2) > 0).tolist() == [True, True]).peak_bytes == 2 * 4 + 2
    with pytest.raises(RuntimeError):
        ValuelessRuns([]).count(lambda: float(torch.empty(1)))
