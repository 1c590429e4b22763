"""Parameter-efficient fine-tuning: small adapters in a frozen model."""

from paddle_infra.peft.adalora import AdaLoRAConfig, AdaLoRALinear, orthogonality, with_orthogonality
from paddle_infra.peft.allocation import RankAllocation, budget, kept_triplets
from paddle_infra.peft.applying import (
    AppliedAdapter,
    ParameterCounts,
    active_adapter,
    adapters,
    apply,
    apply_lora,
    count_parameters,
    delete_adapter,
    disabled,
    set_adapter,
    trainable_parameters,
)
from paddle_infra.peft.bottleneck import HOULSBY, PFEIFFER, BottleneckConfig
from paddle_infra.peft.config import ATTENTION_AND_MLP, MLP_OUTPUT, AdapterConfig
from paddle_infra.peft.files import load_adapter, save_adapter
from paddle_infra.peft.huggingface import load_huggingface, save_huggingface
from paddle_infra.peft.ia3 import IA3Config
from paddle_infra.peft.lora import LoRAConfig
from paddle_infra.peft.merging import merge, merge_and_remove, unmerge
from paddle_infra.peft.prefix import PrefixConfig
from paddle_infra.peft.prompt import PromptConfig

__all__ = [
    "ATTENTION_AND_MLP",
    "HOULSBY",
    "MLP_OUTPUT",
    "PFEIFFER",
    "AdaLoRAConfig",
    "AdaLoRALinear",
    "AdapterConfig",
    "AppliedAdapter",
    "BottleneckConfig",
    "IA3Config",
    "LoRAConfig",
    "ParameterCounts",
    "PrefixConfig",
    "PromptConfig",
    "RankAllocation",
    "active_adapter",
    "adapters",
    "apply",
    "apply_lora",
    "budget",
    "count_parameters",
    "delete_adapter",
    "disabled",
    "kept_triplets",
    "load_adapter",
    "load_huggingface",
    "merge",
    "merge_and_remove",
    "orthogonality",
    "save_adapter",
    "save_huggingface",
    "set_adapter",
    "trainable_parameters",
    "unmerge",
    "with_orthogonality",
]
