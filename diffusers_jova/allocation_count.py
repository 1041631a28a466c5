"""What a computation holds at most and how much it computes, counted by running it on tensors without values.

PyTorch's fake tensors have shapes, formats and storages of a size, and every operator on them says which tensors it
would make. So no formula of a model stands here, and nothing is loaded. What a kernel allocates within itself is not
seen: a workspace of a convolution, say. A truth value that code asks of a tensor counts as true.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count


# what attention is called on DEVICE, which PyTorch's own table leaves out; arguments begin with query, key and value
ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
ATTENTION_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward  # gradient in front of these
READ_SCALAR = torch.ops.aten._local_scalar_dense.default  # which no tensor without values can
DEVICE = torch.device("cpu")  # of the tensors without values; a fake CUDA device needs a build with CUDA


class Counted(NamedTuple):
    """What a computation takes.

    Attributes:
        peak_bytes: Of all tensors at once that it makes, without the weights.
        operations: Multiplications and additions of matrix products, convolutions and attention.
    """

    peak_bytes: int
    operations: int


class AllocationCounter(TorchDispatchMode):
    """Follows the storages of all tensors that operators return, until nobody holds them.

    Args:
        known: Tensors whose storages are there already.

    Attributes:
        live_bytes: Of the storages that somebody holds, without those set aside.
        peak_bytes: The most that these were since `restart`.
        most_bytes: The same together with those set aside.
        operations: Multiplications and additions since `restart`.
        truth: What is answered where a truth value decides that has no value: of MOVA's two towers, the first works.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.truth = True
        self.sizes: dict[int, int] = {}  # by storage
        self.aside: set[int] = set()  # of them
        self.live_bytes = self.aside_bytes = self.peak_bytes = self.most_bytes = self.operations = 0
        for tensor in known:
            self.follow(tensor, is_counted=False)

    def follow(self, tensor: Tensor, is_counted: bool = True) -> None:
        """Take note of a tensor's storage, once."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.sizes:
            return
        self.sizes[key] = storage.nbytes() if is_counted else 0
        weakref.finalize(storage, self.forget, key)
        self.live_bytes += self.sizes[key]
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        self.most_bytes = max(self.most_bytes, self.live_bytes + self.aside_bytes)

    def forget(self, key: int) -> None:
        """Take note that a storage is gone."""
        if key in self.aside:
            self.aside.remove(key)
            self.aside_bytes -= self.sizes.pop(key)
        else:
            self.live_bytes -= self.sizes.pop(key)

    def set_aside(self, tensor: Tensor) -> None:
        """Count the storage of a tensor apart from now on: a gradient, say, among what comes and goes."""
        key = tensor.untyped_storage()._cdata
        if key not in self.aside:
            self.aside.add(key)
            self.aside_bytes += self.sizes[key]
            self.live_bytes -= self.sizes[key]

    def restart(self) -> None:
        """Forget the highest so far and the operations."""
        self.peak_bytes, self.most_bytes, self.operations = self.live_bytes, self.live_bytes + self.aside_bytes, 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operator, and count what it makes."""
        if func is READ_SCALAR and args[0].dtype == torch.bool:
            return self.truth
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                self.follow(tensor)
        if func._overloadpacket is ATTENTION:
            self.operations += sdpa_flop_count(*(rows.shape for rows in args[:3]))
        elif func._overloadpacket is ATTENTION_BACKWARD:
            self.operations += sdpa_backward_flop_count(*(rows.shape for rows in args[:4]))
        elif (formula := flop_registry.get(func._overloadpacket)) is not None:
            self.operations += formula(*args, **(kwargs or {}), out_val=output)
        return output


class ValuelessRuns:
    """Modules without values, and runs of them.

    Args:
        modules: On the meta device, which they leave.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.weights: list[Tensor] = []
        with self.mode:
            for module in modules:
                module.to_empty(device=DEVICE)
                self.weights += [*module.parameters(), *module.buffers()]

    @contextmanager
    def counting(self) -> Iterator[AllocationCounter]:
        """Count what is computed within; tensors that are made there have no values."""
        counter = AllocationCounter(self.weights)
        with torch.no_grad(), self.mode, counter:
            yield counter

    def count(self, work: Callable[[], Any]) -> Counted:
        """Count one computation, to whose peak its own arguments belong if it makes them."""
        with self.counting() as counter:
            result = work()
            del result
        return Counted(counter.peak_bytes, counter.operations)
