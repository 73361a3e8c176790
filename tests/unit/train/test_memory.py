import dataclasses
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from alignray.train.config import LoRAConfig, ModelConfig, StrategyConfig
from alignray.train.memory import CONTEXT_BYTES, GIB, MemoryEstimate, ModelShape, estimate_memory, shape_of

LLAMA_8B = ModelShape(
    num_parameters=8_030_261_248, num_trained=8_030_261_248, num_layers=32, layer_parameters=218_112_000, hidden_size=4096,
    intermediate_size=14336, num_heads=32, num_kv_heads=8, head_dim=128, vocab_size=128256,
)


def estimate(
    shape: ModelShape = LLAMA_8B, *, ranks: int = 8, dtype: str = "bfloat16", checkpointing: bool = True, **strategy: object,
) -> MemoryEstimate:
    return estimate_memory(
        shape, StrategyConfig.model_validate({"kind": "deepspeed", **strategy}), dtype=dtype, world_size=ranks, max_tokens=8192,
        gradient_checkpointing=checkpointing,
    )


@pytest.mark.parametrize(
    ("stage", "weights", "gradients", "optimizer"),
    # a model of P bfloat16 parameters takes 2P, its gradients 2P, float32 master weights and two moments 12P; the stages divide them by 8
    [(0, 2, 2, 12), (1, 2, 2, 12 / 8), (2, 2, 2 / 8, 12 / 8), (3, 2 / 8, 2 / 8, 12 / 8)],
)
def test_zero_divides_what_its_stage_says(stage: int, weights: float, gradients: float, optimizer: float) -> None:
    found = estimate(zero_stage=stage)
    billion = 8_030_261_248
    assert found.weights == weights * billion and found.gradients == gradients * billion and found.optimizer == optimizer * billion
    assert found.total == sum(getattr(found, field.name) for field in dataclasses.fields(found) if field.name not in ("host", "total"))


def test_offload_moves_states_to_the_host() -> None:
    plain, optimizer, everything = (estimate(zero_stage=3, offload=offload) for offload in ("none", "optimizer", "all"))
    assert (optimizer.optimizer, optimizer.host, optimizer.weights) == (0, plain.optimizer, plain.weights)
    assert (everything.weights, everything.host) == (0, plain.optimizer + plain.weights)


def test_ddp_keeps_float32_and_casts() -> None:
    found = estimate(kind="ddp", ranks=1)
    assert (found.weights, found.gradients, found.optimizer, found.buffers) == tuple(n * LLAMA_8B.num_parameters for n in (4, 4, 8, 2))
    two = estimate(kind="ddp", ranks=2)
    assert two.buffers - found.buffers == 4 * LLAMA_8B.num_parameters
    assert estimate(kind="ddp", ranks=1, dtype="float32").buffers == 0


def test_fsdp2_shards_all_and_gathers_two_layers() -> None:
    strategy = StrategyConfig(kind="fsdp2")
    found = estimate_memory(
        LLAMA_8B, strategy, dtype="bfloat16", world_size=8, max_tokens=8192, gradient_checkpointing=True, accumulates=False,
    )
    assert found.weights + found.gradients + found.optimizer == 16 * LLAMA_8B.num_parameters // 8
    ends = LLAMA_8B.num_parameters - 32 * LLAMA_8B.layer_parameters
    assert found.buffers == 2 * (ends + 2 * LLAMA_8B.layer_parameters)
    more = estimate_memory(LLAMA_8B, strategy, dtype="bfloat16", world_size=8, max_tokens=8192, gradient_checkpointing=True)
    assert more.buffers - found.buffers == 4 * LLAMA_8B.num_parameters


def test_activations_by_hand() -> None:
    # per token and layer, bfloat16: norms 16 x 4096, projections 2 x (2 x 4096 + 2 x 1024 + 4 x 14336), 4 x 34 for norms and softmax
    layer = 8192 * (16 * 4096 + 2 * (2 * 4096 + 2 * 1024 + 4 * 14336) + 4 * 34)
    ends = 8192 * 12 * 4096
    assert estimate(checkpointing=False).activations == 32 * layer + ends
    assert estimate(checkpointing=True).activations == 32 * 8192 * 2 * 4096 + layer + ends
    assert estimate().logits == 12 * 512 * 128256
    assert 1.4 * GIB < layer < 1.6 * GIB


def test_adapters_need_no_states_for_the_frozen() -> None:
    found = estimate(dataclasses.replace(LLAMA_8B, num_trained=42_000_000), ranks=1, zero_stage=0)
    assert (found.weights, found.gradients, found.optimizer) == (2 * 8_030_261_248, 84_000_000, 504_000_000)
    assert CONTEXT_BYTES < found.overhead < 3 * GIB


def test_eager_attention_keeps_the_scores() -> None:
    kept = [estimate_memory(
        LLAMA_8B, StrategyConfig(), dtype="bfloat16", world_size=1, max_tokens=2048, gradient_checkpointing=False, attention=attention,
    ).activations for attention in ("sdpa", "eager")]
    assert kept[1] - kept[0] == 32 * 8 * 32 * 2048**2


# ---- against a real model


def config(**changes: int) -> LlamaConfig:
    return LlamaConfig(**{
        "hidden_size": 64, "intermediate_size": 176, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 16,
        "num_hidden_layers": 3, "vocab_size": 512, **changes,
    })


@pytest.fixture
def folder(tmp_path: Path) -> str:
    config().save_pretrained(tmp_path)
    return str(tmp_path)


def test_the_shape_comes_from_the_config_alone(folder: str) -> None:
    shape = shape_of(ModelConfig(path=folder, gradient_checkpointing=False))
    real = AutoModelForCausalLM.from_config(config())
    assert shape.num_parameters == shape.num_trained == sum(parameter.numel() for parameter in real.parameters())
    assert shape.layer_parameters == 2 * 64 * 128 + 2 * 64 * 32 + 3 * 64 * 176 + 2 * 64 and shape.num_layers == 3
    adapted = shape_of(ModelConfig(path=folder, lora=LoRAConfig(rank=4, targets=("q_proj",))))
    assert adapted.num_trained == 3 * 4 * (64 + 128) and adapted.num_parameters == shape.num_parameters + adapted.num_trained


@pytest.mark.parametrize(("dtype", "kind"), [("float32", "ddp"), ("bfloat16", "deepspeed"), ("bfloat16", "ddp")])
def test_activations_are_what_autograd_keeps(folder: str, dtype: str, kind: str) -> None:
    tokens = 500  # a number that is no size of a weight
    shape = shape_of(ModelConfig(path=folder, gradient_checkpointing=False))
    estimated = estimate_memory(
        shape, StrategyConfig.model_validate({"kind": kind}), dtype=dtype, world_size=1, max_tokens=tokens, gradient_checkpointing=False,
    ).activations
    precision: torch.dtype = getattr(torch, dtype)
    is_autocast = kind == "ddp" and dtype == "bfloat16"
    model = AutoModelForCausalLM.from_config(config(), attn_implementation="sdpa").to(torch.float32 if is_autocast else precision)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    shapes = {tuple(shape) for parameter in model.parameters() for shape in (parameter.shape, parameter.shape[::-1])}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        # casts of weights are counted as buffers
        if tensor.untyped_storage().data_ptr() not in weights and tuple(tensor.shape) not in shapes:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", precision, enabled=is_autocast):
        states = model.model(input_ids=torch.randint(0, 512, (1, tokens)), use_cache=False).last_hidden_state
    assert states.requires_grad
    measured = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert measured == pytest.approx(estimated, rel=0.05)
