"""Parse YAML of any origin: plain values alone, so that no file runs anything or grows while it is read."""

from typing import Any

import yaml


class PlainYamlLoader(yaml.SafeLoader):
    """Safe loader, which constructs no objects, without aliases, of which a few lines could stand for gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:  # noqa: ANN401 - PyYAML has no types
        """Refuse an alias."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases are not read", problem_mark=self.peek_event().start_mark)
        return super().compose_node(parent, index)


def parse_yaml(content: str, loader: type[PlainYamlLoader] = PlainYamlLoader) -> Any:  # noqa: ANN401 - YAML is untyped
    """Return the values of a YAML document.

    Args:
        content: The document.
        loader: A loader that refuses more.

    Raises:
        yaml.YAMLError: If it is no YAML, or holds a tag of an object or an alias.
    """
    return yaml.load(content, Loader=loader)  # a SafeLoader by its type: no tag runs anything
