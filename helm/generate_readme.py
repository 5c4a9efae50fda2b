"""Writes the chart's README.md from README.template.md and from the comments of values.yaml: `make chart-readme`.

The comment right above a value describes it. A mapping whose members are described is a group, and its own comment
stands above the group's table.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

CHART = Path(__file__).resolve().parent / "nvshare"
PLACE = "<!-- values -->\n"


@dataclass(frozen=True)
class Value:
    """One row: where the value stands, its default as JSON, and what it is for."""

    path: str
    default: str
    description: str


@dataclass(frozen=True)
class Group:
    """One table. `description` is empty for values that stand alone."""

    description: str
    values: tuple[Value, ...]


def groups(text: str) -> tuple[Group, ...]:
    """All values that `text` (of a values.yaml) describes. Raises ValueError for one that has no description."""
    document = yaml.compose(text, yaml.SafeLoader)
    assert isinstance(document, yaml.MappingNode)
    reader = _Reader(text.splitlines())
    found: list[Group] = []
    alone: list[Value] = []
    for key, node in document.value:
        description = reader.comment_above(key)
        if description and reader.has_described_members(node):
            if alone:
                found.append(Group("", tuple(alone)))
                alone = []
            found.append(Group(description, tuple(reader.values(key.value, node, ""))))
        else:
            alone += reader.values(key.value, node, description)
    return (*found, Group("", tuple(alone))) if alone else tuple(found)


class _Reader:
    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def comment_above(self, key: yaml.Node) -> str:
        """The comment lines right above a key, as one text."""
        comment: list[str] = []
        number = key.start_mark.line - 1
        while number >= 0 and self._lines[number].strip().startswith("#"):
            comment.insert(0, self._lines[number].strip().removeprefix("#").strip())
            number -= 1
        return " ".join(comment)

    def has_described_members(self, node: yaml.Node) -> bool:
        return isinstance(node, yaml.MappingNode) and any(
            self.comment_above(key) or self.has_described_members(member) for key, member in node.value
        )

    def values(self, path: str, node: yaml.Node, description: str) -> Iterator[Value]:
        if self.has_described_members(node):
            for key, member in node.value:
                yield from self.values(f"{path}.{key.value}", member, self.comment_above(key))
            return
        if not description:
            raise ValueError(f"values.yaml does not say what {path} is for: write a comment above it")
        default = json.dumps(yaml.SafeLoader("").construct_object(node, deep=True), ensure_ascii=False)
        yield Value(path, default, description)


def render(template: str, values: str) -> str:
    """The README: the tables of `values` (text of a values.yaml) in their place in `template`."""
    tables = []
    for group in groups(values):
        rows = [f"| `{value.path}` | `{value.default}` | {value.description} |" for value in group.values]
        heading = [f"{group.description}", ""] if group.description else []
        tables.append("\n".join([*heading, "| value | default | what it is |", "| --- | --- | --- |", *rows, ""]))
    return template.replace(PLACE, "\n".join(tables))


def main() -> None:
    text = render((CHART / "README.template.md").read_text(), (CHART / "values.yaml").read_text())
    (CHART / "README.md").write_text(text)


if __name__ == "__main__":
    main()
