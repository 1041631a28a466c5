"""How many steps a clip takes, and which of core's solvers takes them."""

import logging


logger = logging.getLogger(__name__)
OWN_SAMPLERS = {"euler": "euler", "unipc": "uni_pc"}  # of core, by the solver of a model's scheduler


def steps_and_sampler(steps: int, sampler: str, own_steps: int, solver: str) -> tuple[int, str]:
    """What the widgets of JoVA Generate mean: a model's own number of steps is that of its own solver.

    Args:
        steps: Of the widget; 0 for the model's own.
        sampler: Of the widget, as core names it.
        own_steps: Of the model's defaults.
        solver: Of the model's scheduler.
    """
    if steps:
        return steps, sampler
    own = OWN_SAMPLERS.get(solver, sampler)
    if own != sampler:
        logger.info(f"the model's own {own_steps} steps are those of `{own}`, which takes the place of `{sampler}`")
    return own_steps, own
