"""A whole encoder by this package, Paddle, PyTorch, ONNX Runtime and OpenVINO: inference, and steps of training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks._harness import Contestant, is_installed

OURS = ("fused", "fused-medium")
PADDLE = ("paddle", "paddle-no-stride")
TORCH = ("torch", "torch-compile", "torch-bf16")
ENGINES = ("onnxruntime", "openvino", "openvino-bf16")
INFERENCE = (*OURS, *PADDLE, *TORCH, *ENGINES)
TRAINING = (*OURS, *PADDLE, *TORCH)
MULTIPLIES_IN_BFLOAT16 = ("fused-medium", "torch-bf16", "openvino-bf16")
# Largest difference of hidden states (of about 1, normalized) that is allowed.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.15}
SIZES = {
    "MiniLM-L6": {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536},
    "BERT-base": {"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072},
}


class Case(NamedTuple):
    """What is measured."""

    model: str
    batch: int
    length: int
    work: str  # "inference" or "training"

    def __str__(self) -> str:
        return f"{self.model} {self.batch}x{self.length} {self.work}"


def available(names: tuple[str, ...]) -> tuple[str, ...]:
    """Leave out contestants that are not installed."""
    package = {"torch": "torch", "onnxruntime": "onnxruntime", "openvino": "openvino"}
    return tuple(n for n in names if is_installed(package.get(n.split("-")[0], "paddle")))


def make_config(model: str) -> Any:
    """Return the configuration of a model of that size."""
    from paddle_infra.models import BertConfig

    return BertConfig(vocab_size=30522, num_attention_heads=12, **SIZES[model])


def make_model(model: str) -> Any:
    """Return the model, with the same random weights every time."""
    import paddle

    from paddle_infra.models import BertModel

    paddle.seed(0)
    return BertModel(make_config(model))


def make_inputs(case: Case) -> dict[str, np.ndarray]:
    """Return token ids and a mask without padding."""
    ids = np.random.default_rng(0).integers(1000, 30000, (case.batch, case.length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def contestant(name: str, case: Case, model: Any, exported: str, threads: int) -> Contestant:
    """Return the contestant of that name; training contestants have a model of their own."""
    data = make_inputs(case)
    if name in ENGINES:
        return _engine(name, exported, data, threads)
    build = _torch if name.startswith("torch") else _paddle
    return build(name, case, model, data, threads)


def set_mode(name: str) -> None:
    """Set the flags and the precision that a Paddle contestant runs with."""
    import paddle

    import paddle_infra as pi

    paddle.set_flags({"FLAGS_use_stride_kernel": name == "paddle"})
    pi.ops.set_matmul_precision("medium" if name == "fused-medium" else "highest")


def _paddle(name: str, case: Case, model: Any, data: dict[str, np.ndarray], threads: int) -> Contestant:
    import paddle

    import paddle_infra as pi

    inputs = [paddle.to_tensor(data["input_ids"]), None, paddle.to_tensor(data["attention_mask"])]
    impl = "fused" if name in OURS else "reference"  # plain Paddle, in both of its settings
    if case.work == "training":
        own = make_model(case.model)
        own.train()
        step = _paddle_step(own, inputs)
    else:
        model.eval()
        step = lambda: model(*inputs)  # noqa: E731

    def run() -> Any:
        with pi.ops.implementation(impl):
            if case.work == "training":
                return step()
            with paddle.no_grad():
                return step()

    return Contestant(run, lambda: set_mode(name), lambda found: found.numpy())


def _paddle_step(model: Any, inputs: list[Any]) -> Callable[[], Any]:
    import paddle

    optimizer = paddle.optimizer.AdamW(1e-5, parameters=model.parameters())

    def step() -> Any:
        loss = (model(*inputs) ** 2).mean()
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        return loss

    return step


def _torch(name: str, case: Case, model: Any, data: dict[str, np.ndarray], threads: int) -> Contestant:
    import torch

    from benchmarks._encoder_torch import make_encoder

    torch.set_num_threads(threads)
    weights = {key: value.numpy() for key, value in model.state_dict().items()}
    encoder = make_encoder(make_config(case.model), weights)
    inputs = [torch.from_numpy(data[key]) for key in ("input_ids", "attention_mask")]
    is_training, is_bf16 = case.work == "training", name == "torch-bf16"
    encoder.train(is_training)
    if is_bf16 and not is_training:
        encoder = encoder.to(torch.bfloat16)
    call = torch.compile(encoder) if name == "torch-compile" else encoder
    optimizer = torch.optim.AdamW(encoder.parameters(), 1e-5) if is_training else None

    def run() -> Any:
        if optimizer is None:
            with torch.inference_mode():
                return call(*inputs)
        with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
            hidden = call(*inputs)
        loss = (hidden.float() ** 2).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return Contestant(run, results=lambda found: found.float().numpy())


def _engine(name: str, exported: str, data: dict[str, np.ndarray], threads: int) -> Contestant:
    file = next(Path(exported).glob("*.onnx"))
    if name == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        return Contestant(lambda: session.run(None, data), results=lambda found: found[0])
    import openvino

    kind = openvino.Type.bf16 if name == "openvino-bf16" else openvino.Type.f32
    settings = {
        openvino.properties.inference_num_threads(): threads,
        openvino.properties.hint.inference_precision(): kind,
        openvino.properties.hint.performance_mode(): openvino.properties.hint.PerformanceMode.LATENCY,
    }
    compiled = openvino.Core().compile_model(str(file), "CPU", settings)
    return Contestant(lambda: compiled(data), results=lambda found: np.asarray(found[0], "float32"))


def disagreements(found: dict[str, np.ndarray]) -> list[str]:
    """Compare hidden states with those of the first contestant; say whose differ too much."""
    first = next(iter(found))
    problems = []
    for name, array in found.items():
        tolerance = TOLERANCE["bfloat16" if name in MULTIPLIES_IN_BFLOAT16 else "float32"]
        error = float(np.abs(array.astype("float32") - found[first]).max())
        if not error <= tolerance:
            problems.append(f"{name} is {error:.1e} from {first}, at most {tolerance:.0e}")
    return problems
