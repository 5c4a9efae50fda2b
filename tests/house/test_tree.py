"""What may be in the tree, and what may not."""

import re
from pathlib import Path

MODULE_LINES = 400
# Longer for a reason, which stands beside the name.
LONGER_MODULES: dict[str, str] = {}

# Assembled from parts, so that this file passes its own test.
REGISTRY_HOSTS = [
    ".".join(parts)
    for parts in [
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("registry", "npmjs", "org"),
        ("proxy", "golang", "org"),
        ("crates", "io"),
        ("deb", "debian", "org"),
        ("archive", "ubuntu", "com"),
        ("download", "pytorch", "org"),
    ]
]
MACHINE_PATH = re.compile("/" + r"(work|home|root|Users)/[\w.-]+")
GENERATED = re.compile(r"(_pb2(_grpc)?\.pyi?|/_build\.py|\.so(\.\d+)*|\.o|\.a|\.whl|\.pyc|\.lock|-lock\.json)$")
UNFINISHED = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")


def lines_that_match(texts: dict[str, str], pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{name}:{number}: {line.strip()[:120]}"
        for name, text in texts.items()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def test_no_file_names_a_package_registry(texts: dict[str, str]) -> None:
    assert not lines_that_match(texts, re.compile("|".join(map(re.escape, REGISTRY_HOSTS))))


def test_no_file_names_a_path_of_one_machine(texts: dict[str, str], root: Path) -> None:
    assert not lines_that_match(texts, MACHINE_PATH)
    assert not lines_that_match(texts, re.compile(re.escape(str(root)) + r"\b"))


def test_nothing_generated_is_committed(tree: list[Path], root: Path) -> None:
    assert not [str(path.relative_to(root)) for path in tree if GENERATED.search(f"/{path.relative_to(root)}")]


def test_nothing_is_left_unfinished(texts: dict[str, str]) -> None:
    assert not lines_that_match(texts, UNFINISHED)


def test_a_module_has_at_most_400_lines(texts: dict[str, str]) -> None:
    long = {
        name: lines
        for name, text in texts.items()
        if name.endswith((".py", ".c", ".h"))
        and "/tests/" not in f"/{name}"
        and (lines := text.count("\n")) > MODULE_LINES
    }
    assert long.keys() == LONGER_MODULES.keys(), long


def test_nvshare_is_a_namespace_over_all_distributions(tree: list[Path]) -> None:
    assert not [path for path in tree if path.name == "__init__.py" and path.parent.name == "nvshare"]


def test_links_between_documents_lead_somewhere(texts: dict[str, str], root: Path) -> None:
    broken = [
        f"{name}: {target}"
        for name, text in texts.items()
        if name.endswith(".md")
        for target in LINK.findall(text)
        if "://" not in target and not ((root / name).parent / target).exists()
    ]
    assert not broken


def test_paths_in_the_documents_exist(texts: dict[str, str], root: Path) -> None:
    """A path in backticks that starts with one of the tree's own folders is a file or folder of the tree."""
    folders = "|".join(sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")))
    mention = re.compile(rf"`((?:{folders})/[\w./-]+)`")
    missing = [
        f"{name}: {path}"
        for name, text in texts.items()
        if name.endswith(".md") and name != "CHANGELOG.md"
        for path in mention.findall(text)
        if not path.startswith(("build/", "dist/")) and not (root / path).exists()
    ]
    assert not missing
