"""What all nodes are."""

from collections.abc import Callable
from typing import Any, ClassVar

from comfy_api.v0_0_2 import io


class JovaNode(io.ComfyNode):
    """A node that runs once its inputs are what its schema declares; see `socket_checks.py`."""

    run: ClassVar[Callable[..., io.NodeOutput]]  # what it does, with checked inputs

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        """Ask for the package, check the inputs, then run."""
        from .package import jova

        jova()  # first: what is missing is told by every node, whatever came to its sockets
        from .socket_checks import check_inputs

        return cls.run(**check_inputs(cls.define_schema().inputs, inputs))
