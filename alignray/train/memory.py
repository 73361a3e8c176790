"""How much memory a device needs to train a model: a sum of parts that can be checked by hand, before any weight is loaded.

P parameters, T of them trained, N ranks. Weights and optimizer follow each strategy's own way of keeping them; activations are what
autograd keeps of a decoder layer of the Llama family (measured, see the test); other families are near that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from alignray.objectives.logprobs import CHUNK
from alignray.train.config import ModelConfig, StrategyConfig

GIB = 1 << 30
CONTEXT_BYTES = GIB
"""CUDA context, kernels, communication buffers."""
FRAGMENTATION_RATE = 0.05
"""Of everything else: what the allocator cannot use."""
BUCKET_ELEMENTS = 500_000_000
"""DeepSpeed's default reduce bucket; a smaller model fits whole."""
LIVE_ELEMENTS = 1_000_000_000
"""DeepSpeed's default stage3_max_live_parameters."""


@dataclass(frozen=True)
class ModelShape:
    """What memory depends on."""

    num_parameters: int
    num_trained: int
    """All, or the adapters."""
    num_layers: int
    layer_parameters: int
    """Of one decoder layer."""
    hidden_size: int
    intermediate_size: int
    """Of the experts that a token meets, together."""
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes per device, and per rank on the host."""

    weights: int
    gradients: int
    optimizer: int
    """AdamW's two float32 moments, and float32 master weights where weights are kept in another precision."""
    buffers: int
    """Weights gathered or cast for use, buckets of gradients."""
    activations: int
    logits: int
    """Of one chunk of positions."""
    overhead: int
    host: int = 0
    """Offloaded states, per rank."""
    total: int = field(init=False)
    """On the device."""

    def __post_init__(self) -> None:
        parts = (self.weights, self.gradients, self.optimizer, self.buffers, self.activations, self.logits, self.overhead)
        object.__setattr__(self, "total", sum(parts))


def estimate_memory(
    shape: ModelShape, strategy: StrategyConfig, *, dtype: str, world_size: int, max_tokens: int, gradient_checkpointing: bool,
    attention: str = "sdpa", accumulates: bool = True,
) -> MemoryEstimate:
    """Peak memory of a training step, to some ten percent.

    Args:
        dtype: float32 or bfloat16, of forward and backward.
        max_tokens: of one forward pass.
        attention: eager keeps the scores of every layer, [heads, tokens, tokens]; others keep none.
        accumulates: a step is made of several passes.
    """
    size = 2 if dtype == "bfloat16" else 4
    weights, gradients, optimizer, buffers, host = _states(shape, strategy, size, world_size, accumulates)
    is_autocast = strategy.kind == "ddp" and size == 2
    activations = _activations(shape, size, max_tokens, gradient_checkpointing, attention, is_autocast)
    logits = 3 * 4 * min(CHUNK, max_tokens) * shape.vocab_size  # logits, their softmax and its gradient, float32
    used = weights + gradients + optimizer + buffers + activations + logits
    return MemoryEstimate(
        weights, gradients, optimizer, buffers, activations, logits, CONTEXT_BYTES + int(FRAGMENTATION_RATE * used), host,
    )


def _states(shape: ModelShape, strategy: StrategyConfig, size: int, ranks: int, accumulates: bool) -> tuple[int, int, int, int, int]:
    """Bytes of weights, gradients, optimizer states, buffers; and of what is on the host."""
    P, T = shape.num_parameters, shape.num_trained
    rest = P - shape.num_layers * shape.layer_parameters
    if strategy.kind == "ddp":
        # float32 throughout; autocast keeps copies of the weights it has cast until backward is done
        return 4 * P, 4 * T, 8 * T, (2 * P if size == 2 else 0) + (4 * T if ranks > 1 else 0), 0
    if strategy.kind == "fsdp2":
        # two layers are gathered at a time, and what is no layer (embeddings, head) all the while
        gathered = size * (rest + 2 * shape.layer_parameters)
        # between passes whose gradients are not yet reduced, every rank holds them whole
        return 4 * P // ranks, 4 * T // ranks, 8 * T // ranks, gathered + (4 * T if accumulates and ranks > 1 else 0), 0
    stage = strategy.zero_stage
    weights, gradients = size * P, size * T
    optimizer = (12 if size == 2 or stage else 8) * T
    buffers = size * min(T, BUCKET_ELEMENTS) if stage else 0
    if stage == 0 and size == 2:
        buffers = 4 * T  # gradients are added up in float32
    if stage >= 1:
        optimizer //= ranks
    if stage >= 2:
        gradients //= ranks
    if stage == 3:
        weights //= ranks
        buffers += size * min(P, LIVE_ELEMENTS)
    host = 0
    if strategy.offload != "none":
        host, optimizer = optimizer, 0
    if strategy.offload == "all":
        host, weights = host + weights, 0
    return weights, gradients, optimizer, buffers, host


def _activations(
    shape: ModelShape, size: int, tokens: int, gradient_checkpointing: bool, attention: str, is_autocast: bool,
) -> int:
    """Bytes that autograd keeps between forward and backward.

    Per token and layer: two norms (their input in float32, what they normalise and what they give), rotated queries and keys, values, what
    attention gives, and four times the intermediate size (gate, its activation, up, their product).
    """
    h, heads = shape.hidden_size, shape.num_heads
    projected = 2 * heads * shape.head_dim + 2 * shape.num_kv_heads * shape.head_dim + 4 * shape.intermediate_size
    norms = 26 if is_autocast else 8 + 4 * size
    layer = (norms * h + size * projected + 4 * (heads + 2)) * tokens
    if attention == "eager":
        layer += (4 + 2 * size) * heads * tokens * tokens
    residual = (4 if is_autocast else size) * h * tokens
    ends = 3 * 4 * h * tokens  # the last norm and the states that are scored
    if gradient_checkpointing:
        return shape.num_layers * residual + layer + ends
    return shape.num_layers * layer + ends


def shape_of(config: ModelConfig) -> ModelShape:
    """The shape of a model from its config alone: it is built without memory, on the meta device, adapters included.

    Raises:
        ConfigError: there is no such model.
    """
    import torch

    from alignray.train.model import load_model

    model = load_model(config, dtype=torch.float32, attention="eager", empty=True)
    settings: Any = model.config.get_text_config()
    lists = [list(module) for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    layers = max(lists, key=len, default=[])
    hidden: int = settings.hidden_size
    heads = getattr(settings, "num_attention_heads", None) or 1
    inner = getattr(settings, "moe_intermediate_size", None) or getattr(settings, "intermediate_size", None) or 4 * hidden
    experts = getattr(settings, "num_experts_per_tok", None) or 1
    return ModelShape(
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        num_trained=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        num_layers=len(layers), layer_parameters=sum(parameter.numel() for parameter in layers[0].parameters()) if layers else 0,
        hidden_size=hidden, intermediate_size=inner * experts, num_heads=heads,
        num_kv_heads=getattr(settings, "num_key_value_heads", None) or heads,
        head_dim=getattr(settings, "head_dim", None) or hidden // heads, vocab_size=settings.vocab_size,
    )
