"""Settings of one option as words name=value with a comma between them."""

from collections.abc import Collection

from .parser import did_you_mean


def named_words(option: str, text: str, known: Collection[str], what: str, example: str) -> dict[str, str]:
    """Values by name, as they are written.

    Args:
        option: Whose words they are, for messages.
        text: The words.
        known: Names that there are.
        what: A name is of, for messages.
        example: Of a word.

    Raises:
        ValueError: Naming the option: a word is none, or names nothing, or what another one names.
    """
    values: dict[str, str] = {}
    for word in text.split(","):
        name, equals, value = (part.strip() for part in word.partition("="))
        if not equals:
            raise ValueError(f"`{option}` must be words name=value, got {word!r}; write {example}, say")
        if name not in known:
            hint = did_you_mean(name, list(known), f"there are {', '.join(known)}")
            raise ValueError(f"`{option}` must name a setting of {what}, got {name!r}; {hint}")
        if name in values:
            raise ValueError(f"`{option}` must name a setting once, got `{name}` several times; leave all but one out")
        values[name] = value
    return values
