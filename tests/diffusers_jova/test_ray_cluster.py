import sys
from typing import NamedTuple

import pytest

from diffusers_jova.ray_cluster import run_on_ray


class Doubled(NamedTuple):
    value: int
    notes: dict[str, int]


def double(value: int) -> list[Doubled]:
    return [Doubled(2 * value, {str(value): value})]


def test_without_ray_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    with pytest.raises(ImportError, match="which is not installed; install the package with its extra `ray`"):
        next(run_on_ray(double, [], 1, "cpu"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray warns about settings of its own
def test_results_come_back_as_they_are() -> None:
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        assert sorted(run_on_ray(double, range(5), 2, "cpu")) == [double(value) for value in range(5)]
        assert list(run_on_ray(double, [], 2, "cpu")) == []
    finally:
        ray.shutdown()
