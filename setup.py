"""What pyproject.toml cannot say: the requirement on Paddle, which depends on the machine, and the compiled
library."""

from __future__ import annotations

import importlib.metadata
import os
import runpy
import sys
from pathlib import Path
from typing import ClassVar

from setuptools import Command, Distribution, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build

HERE = Path(__file__).resolve().parent
PADDLE_NAMES = ("paddlepaddle", "paddlepaddle-gpu")
PADDLE_VERSIONS = ">=3.3,<3.4"  # the compiled library fits one minor version

# Lower bounds: the oldest whose interface is used. Upper bounds: below the next release that nobody has
# tried.
DEPENDENCIES = [
    "numpy>=1.26,<3",
    "safetensors>=0.4.5,<0.9",
    "tokenizers>=0.20,<0.24",
    "visualdl>=2.5.3,<2.6",
    "rich>=13.7,<16",
    "pyyaml>=6.0.1,<7",
    "jinja2>=3.1.4,<4",
    "filelock>=3.13,<5",
]
EXTRAS = {
    "onnx": ["onnx>=1.17,<1.24", "onnxruntime>=1.20,<1.32"],
    "openvino": ["openvino>=2024.6,<2027"],
    # compress.quantize_onnx: what ONNX Runtime's quantizers import beside it.
    "quantize": [
        "onnx>=1.19,<1.24",
        "onnxruntime>=1.20,<1.32",
        "ml_dtypes>=0.5,<0.7",
        "onnx_ir>=0.1.10,<2",
    ],
    # The second converter; it asks for onnx 1.17, which knows opset 22 and no later one.
    "paddle2onnx": ["paddle2onnx==2.1.*"],
    # Newer releases of these three break paddlenlp 2.8.1.
    "nlp": ["paddlenlp==2.8.1", "datasets<3", "huggingface_hub<0.30", "aistudio_sdk<0.3"],
    # Loggers of train; VisualDL is always there.
    "tensorboard": ["tensorboardX>=2.6.2,<2.7"],
    "wandb": ["wandb>=0.31,<0.32"],
    "mlflow": ["mlflow>=3.17,<4"],
    # train.BLEU
    "text": ["sacrebleu>=2.6,<3"],
    "folds": ["scikit-learn>=1.5,<1.10"],
    "ray": ["ray[tune]>=2.40,<2.61", "optuna>=4.0,<5.1"],
    "search": ["optuna>=4.0,<5.1"],
    "bench": ["torch>=2.4,<2.15", "onnxruntime>=1.20,<1.32", "openvino>=2024.6,<2027"],
    "dev": [
        "pytest>=8.2,<10",
        "pytest-xdist>=3.6,<4",
        "pytest-timeout>=2.3,<3",
        "ruff>=0.9,<0.18",
        "mypy>=1.13,<3",
        "clang-format>=18,<24",
        "types-PyYAML>=6.0.12,<7",
        "seqeval>=1.2.2,<2",
        "tensorboardX>=2.6.2,<2.7",
        "sacrebleu>=2.6,<3",
        "ninja>=1.11,<2",
        "openvino>=2024.6,<2027",
        "hypothesis>=6.100,<6.171",
        "optuna>=4.0,<5.1",
        "scikit-learn>=1.5,<1.10",
        "onnx_ir>=0.1.10,<2",
    ],
    "docs": ["sphinx>=7.4,<10", "myst-parser>=4,<6", "furo>=2024.8.6"],
}


def paddle_requirement() -> str:
    """Name the Paddle of the building environment, so that pip never installs both kinds over each other."""
    wanted = os.environ.get("PADDLE_INFRA_PADDLE")
    if wanted is None:
        try:
            importlib.metadata.distribution("paddlepaddle-gpu")
            wanted = "paddlepaddle-gpu"
        except importlib.metadata.PackageNotFoundError:
            wanted = "paddlepaddle"
    if wanted not in PADDLE_NAMES:
        raise SystemExit(f"error: PADDLE_INFRA_PADDLE: expected {' or '.join(PADDLE_NAMES)}, got {wanted!r}")
    return wanted + PADDLE_VERSIONS


class BuildCsrc(Command):
    """Compiles csrc/ into ``paddle_infra/_lib``: of the wheel, or of the source folder for an editable
    installation."""

    description = "compile the operators"
    user_options: ClassVar[list[tuple[str, str | None, str]]] = []

    def initialize_options(self) -> None:
        self.build_lib: str | None = None
        self.editable_mode = False

    def finalize_options(self) -> None:
        self.set_undefined_options("build", ("build_lib", "build_lib"))

    def run(self) -> None:
        builder = runpy.run_path(str(HERE / "csrc/build.py"), run_name="paddle_infra_build")
        try:
            builder["build"](self._folder())
        except builder["BuildError"] as error:
            sys.stdout.flush()
            raise SystemExit(f"error: {error}") from None

    def _folder(self) -> Path:
        root = HERE if self.editable_mode else Path(self.build_lib or "build/lib").resolve()
        return root / "paddle_infra/_lib"

    def get_outputs(self) -> list[str]:
        return [str(self._folder() / name) for name in ("libpaddle_infra.so", "libpaddle_infra.json")]

    def get_output_mapping(self) -> dict[str, str]:
        return {}

    def get_source_files(self) -> list[str]:
        kinds = {".cc", ".cu", ".cuh", ".h", ".json", ".md", ".py"}
        return [str(p.relative_to(HERE)) for p in sorted((HERE / "csrc").rglob("*")) if p.suffix in kinds]


class PlatformWheel(bdist_wheel):
    """The library uses no symbol of CPython: one wheel for every Python 3 of this platform."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


class PlatformDistribution(Distribution):
    def has_ext_modules(self) -> bool:
        return True


build.sub_commands = [*build.sub_commands, ("build_csrc", None)]

setup(
    version=runpy.run_path(str(HERE / "paddle_infra/_version.py"))["__version__"],
    packages=find_packages(include=["paddle_infra", "paddle_infra.*"]),
    package_data={
        "paddle_infra": ["py.typed", "**/*.html", "**/*.j2", "**/*.css", "**/*.js", "**/*.svg", "**/*.yaml"]
    },
    include_package_data=False,
    install_requires=[paddle_requirement(), *DEPENDENCIES],
    extras_require=EXTRAS,
    cmdclass={"build_csrc": BuildCsrc, "bdist_wheel": PlatformWheel},
    distclass=PlatformDistribution,
    zip_safe=False,
)
