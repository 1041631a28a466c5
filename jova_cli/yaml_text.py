"""YAML that others wrote, in which no name may stand twice: of two values the last would win in silence."""

from typing import Any


def parse_yaml(text: str) -> Any:
    """Read YAML.

    Args:
        text: Of it.

    Raises:
        ImportError: If PyYAML is not installed.
        yaml.YAMLError: If it is no YAML, or a mapping has a name twice.
        ValueError: If a date in it is none.
        RecursionError: If it is nested without end.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses a name that stands twice."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            """As in PyYAML, once the names are checked."""
            lines: dict[str, int] = {}
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    continue
                line = key.start_mark.line + 1
                if key.value in lines:
                    raise yaml.YAMLError(f"`{key.value}` stands in line {lines[key.value]} and again in line {line}")
                lines[key.value] = line
            return super().construct_mapping(node, deep)

    return yaml.load(text, Loader)
