"""Which predictions a step needs, and the modalities of which each needs rows.

A pipeline and the guider of ComfyUI both ask no more than this.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from .guidance import Branch, Guidance, Weights, merged, required_branches, runs_of_steps
from .sample_runs import OTHER, Coupling, reads_other


class StepRun(NamedTuple):
    """Steps in a row that ask the same.

    Args:
        steps: Their indices.
        rows_read: Modalities of which each prediction needs rows.
    """

    steps: range
    rows_read: dict[Branch, tuple[str, ...]]


class BranchGroup(NamedTuple):
    """Predictions that one forward answers.

    Args:
        branches: One after the other in the batch.
        names: Modalities of which they need rows.
    """

    branches: list[Branch]
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PredictionPlan:
    """What the modalities of a call ask of the model.

    Args:
        names: Modalities that take part.
        generated: Those of which something is left to generate.
        coupling: Attention between audio and video in coupled predictions with the prompt: all of it, or one
            direction.
        negative_coupling: The same in those without the prompt.
        negative_skip_layer: Block that predictions without the prompt leave out; None for none.
        has_voices: Whether the prompt's speakers have voices, without which a prediction that leaves them out is none.
        order: How often the solver asks in a step of its own; what follows counts each time as a step.
    """

    names: Sequence[str]
    generated: Sequence[str]
    coupling: Coupling = True
    negative_coupling: Coupling = True
    negative_skip_layer: int | None = None
    has_voices: bool = False
    order: int = 1

    def weights(self, guidance: Mapping[str, Guidance], step: int, num_steps: int) -> dict[str, Weights]:
        """Weights of the modalities that are generated, of predictions that differ; none where the velocity is zero.

        Args:
            guidance: Of each modality.
            step: Index of the step.
            num_steps: Number of steps.
        """
        return {
            name: guidance[name].with_compared(
                merged(guidance[name].weights(step, num_steps, self.order), partial(self.question, name))
            )
            for name in self.generated
        }

    def runs(self, guidance: Mapping[str, Guidance], num_steps: int) -> list[StepRun]:
        """All steps of a call, which need not be walked one by one.

        Args:
            guidance: Of each modality.
            num_steps: Number of steps.
        """
        return [
            StepRun(steps, self.rows_read(self.weights(guidance, steps.start, num_steps)))
            for steps in runs_of_steps(guidance.values(), num_steps, self.order)
        ]

    def question(self, name: str, branch: Branch) -> Branch:
        """The branch that stands for all which ask a modality the same.

        Args:
            name: The modality.
            branch: One of them.
        """
        with_coupling = branch._replace(coupled=True)
        is_coupled = branch.coupled or not self.reads_other(name, with_coupling)
        is_voiced = branch.voiced if self.has_voices else branch.text and is_coupled
        return Branch(branch.text, is_coupled, is_voiced)

    def coupling_of(self, branch: Branch) -> Coupling:
        """Attention between audio and video in a prediction."""
        return branch.coupled and (self.coupling if branch.text else self.negative_coupling)

    def reads_other(self, name: str, branch: Branch) -> bool:
        """Whether a modality reads the other one in a prediction."""
        return OTHER[name] in self.names and reads_other(name, self.coupling_of(branch))

    def rows_read(self, weights: Mapping[str, Weights]) -> dict[Branch, tuple[str, ...]]:
        """Modalities of which each prediction needs rows: those whose velocity is wanted, and what these read.

        Args:
            weights: From `weights`.
        """
        return {branch: self.rows_of(branch, wanted) for branch, wanted in wanted_of(weights).items()}

    def rows_of(self, branch: Branch, wanted: Sequence[str]) -> tuple[str, ...]:
        """Modalities of which one prediction needs rows.

        Args:
            branch: The prediction.
            wanted: Modalities whose velocity is wanted.
        """
        read = [OTHER[name] for name in wanted if self.reads_other(name, branch)]
        return tuple(name for name in self.names if name in (*wanted, *read))

    def skipped_layer(self, branch: Branch) -> int | None:
        """Block that a prediction leaves out; None for none."""
        return None if branch.text else self.negative_skip_layer

    def groups(self, rows_read: Mapping[Branch, tuple[str, ...]], is_sequential: bool) -> list[BranchGroup]:
        """What one forward each answers: a branch, or all that need the same rows and leave out the same block.

        Args:
            rows_read: Modalities of which each branch needs rows, from `rows_read`.
            is_sequential: Whether predictions are made one after the other.

        Returns:
            Those that need both modalities first, because a cache between steps learns from them what a call has.
        """
        groups: dict[tuple[Any, ...], list[Branch]] = {}
        for branch, names in rows_read.items():
            alike = branch if is_sequential else self.skipped_layer(branch)
            groups.setdefault((names, alike), []).append(branch)
        found = [BranchGroup(branches, names) for (names, _), branches in groups.items()]
        return sorted(found, key=lambda group: -len(group.names))


def wanted_of(weights: Mapping[str, Weights]) -> dict[Branch, list[str]]:
    """Modalities that want each prediction's velocity, in the order of `required_branches`.

    Args:
        weights: By modality.
    """
    return {
        branch: [name for name, of_modality in weights.items() if branch in of_modality]
        for branch in required_branches(*weights.values())
    }
