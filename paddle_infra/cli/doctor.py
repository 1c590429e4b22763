"""``paddle-infra doctor``: what is here, what is missing, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape

from paddle_infra._core import extension
from paddle_infra._core.runtime import cpu_info
from paddle_infra._version import __version__
from paddle_infra.data import resources

# Modules by extra; an extra is present if all its modules can be imported.
_EXTRAS = {
    "onnx": ("paddle2onnx", "onnx", "onnxruntime"),
    "openvino": ("openvino",),
    "nlp": ("paddlenlp",),
    "search": ("optuna",),
    "ray": ("ray", "optuna"),
    "folds": ("sklearn",),
    "tensorboard": ("tensorboardX",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
    "text": ("sacrebleu",),
    "bench": ("torch", "onnxruntime", "openvino"),
}
_PACKAGES = ("paddlepaddle", "paddlepaddle-gpu", "numpy", "safetensors", "tokenizers", "visualdl", "rich", "onnx",
             "onnxruntime", "paddle2onnx")  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis."""

    is_good: bool | None  # None: neither good nor bad, just so
    subject: str
    text: str


def diagnose() -> list[Finding]:
    """Look at this environment; nothing is changed and nothing is downloaded."""
    findings = [
        Finding(
            None, "paddle_infra", f"{__version__}, Python {platform.python_version()} ({sys.executable})"
        ),
        *_processor(),
        *_paddle(),
        *_extension(),
        *_optional(),
    ]
    for resource in resources.available():
        cached = resources.is_cached(resource)
        state = "cached" if cached else f"not fetched yet: paddle-infra resources fetch {resource.name}"
        findings.append(Finding(None, f"resource {resource.name}", state))
    findings.append(Finding(None, "cache", str(resources.cache_directory())))
    return findings


def _processor() -> list[Finding]:
    cpu = cpu_info()
    features = " ".join(cpu.features) or "none of the vector extensions that kernels look for"
    return [Finding(None, "processor", f"{cpu.model}, {cpu.cores} cores: {features}")]


def _paddle() -> list[Finding]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    findings = [
        Finding(None, "versions", ", ".join(f"{name} {version}" for name, version in versions.items()))
    ]
    both = {"paddlepaddle", "paddlepaddle-gpu"} & set(versions)
    if len(both) == 2:
        text = "paddlepaddle and paddlepaddle-gpu overwrite each other: uninstall both, then install one"
        findings.append(Finding(False, "paddle", text))
    elif not both:
        findings.append(Finding(False, "paddle", "not installed: pip install 'paddlepaddle>=3.3,<3.4'"))
    else:
        import paddle

        has_cuda = paddle.device.is_compiled_with_cuda()
        gpus = paddle.device.cuda.device_count() if has_cuda else 0
        device = f"CUDA build, {gpus} GPUs" if has_cuda else "CPU build"
        findings.append(Finding(True, "paddle", f"{paddle.__version__}, {device}"))
    return findings


def _extension() -> list[Finding]:
    status = extension.status()
    if status.is_loaded:
        build = dict(status.build or {})
        made_with = (
            f"Paddle {build.get('paddle_version')}, {build.get('compiler')}, CUDA: {build.get('cuda')}"
        )
        chosen = "PADDLE_INFRA_ISA" if os.environ.get("PADDLE_INFRA_ISA") else "this processor"
        return [
            Finding(True, "compiled operators", f"{status.path} ({made_with})"),
            Finding(True, "instruction set", f"{status.isa}, by {chosen}"),
        ]
    return [Finding(False, "compiled operators", "; ".join(status.reasons))]


def _optional() -> list[Finding]:
    findings = []
    for extra, modules in _EXTRAS.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        text = f"missing {', '.join(missing)}: pip install 'paddle_infra[{extra}]'" if missing else "present"
        findings.append(Finding(None if missing else True, f"extra [{extra}]", text))
    for program, use in (("g++", "compiles the operators"), ("nvcc", "compiles the CUDA operators"),
                         ("chromium", "tests the report page")):  # fmt: skip
        path = shutil.which(program)
        findings.append(Finding(None if path is None else True, program, path or f"not found ({use})"))
    return findings


def print_diagnosis(console: Console) -> bool:
    """Print the diagnosis; return whether everything that is needed is here."""
    marks = {True: "[green]ok  [/]", False: "[red]BAD [/]", None: "    "}
    findings = diagnose()
    for finding in findings:
        console.print(
            f"{marks[finding.is_good]} [bold]{escape(finding.subject)}[/]: {escape(finding.text)}",
        )
    return all(finding.is_good is not False for finding in findings)
