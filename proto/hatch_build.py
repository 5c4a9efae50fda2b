"""Generates the modules of the messages of `nvshare.v1` and `nvshare.kubelet`, and the name of this build.

Hatchling runs the hook before it packs or links the distribution; `python proto/hatch_build.py` does the same by hand.
"""

import os
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path(__file__).resolve().parent


def build_name(folder: Path) -> str:
    """What this build calls itself: `$NVSHARE_BUILD`, else what git says of the tree, else `unknown`."""
    if name := os.environ.get("NVSHARE_BUILD"):
        return name
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=folder, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described.stdout.strip()


def generate(folder: Path) -> None:
    """Write `*_pb2.py` and `*_pb2.pyi` into the packages in `folder/src/nvshare`, and `_build.py` into `v1`.

    Raises RuntimeError when protoc refuses a .proto file (it has then printed why).
    """
    from grpc_tools import protoc

    target = folder / "src"
    package = target / "nvshare" / "v1"
    package.mkdir(parents=True, exist_ok=True)
    sources = [str(path.relative_to(folder)) for path in sorted((folder / "nvshare").glob("*/*.proto"))]
    include = str(files("grpc_tools") / "_proto")
    arguments = [f"--proto_path={folder}", f"--proto_path={include}", f"--python_out={target}", f"--pyi_out={target}"]
    if protoc.main(["protoc", *arguments, *sources]) != 0:
        raise RuntimeError("protoc refused a file in proto/nvshare; its message is above")
    # Not rewritten when unchanged: what depends on it by its date stays fresh.
    text = f'"""Written by proto/hatch_build.py."""\n\nBUILD = "{build_name(folder)}"\n'
    build_module = package / "_build.py"
    if not build_module.exists() or build_module.read_text() != text:
        build_module.write_text(text)


class GeneratedModules(BuildHookInterface[Any]):
    """Hatchling's entry."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        generate(Path(self.root))


if __name__ == "__main__":
    generate(FOLDER)
