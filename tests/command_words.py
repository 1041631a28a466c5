"""Command lines of tests that differ from a common one: nothing may be given twice."""

from collections.abc import Sequence


def replaced(command: Sequence[str], *more: str) -> list[str]:
    """A command with words in place of those that give the same option or setting.

    Args:
        command: Whose options have one value each.
        more: Options with their values, and words name=value.
    """
    names = {word.partition("=")[0] for word in more if "=" in word or word.startswith("--")}
    kept: list[str] = []
    for index, word in enumerate(command):
        is_value = index > 0 and command[index - 1] in names and command[index - 1].startswith("--")
        if word.partition("=")[0] not in names and not is_value:
            kept.append(word)
    return [*kept, *more]
