"""A model whose knowledge is edited, and how fine-tuning edits it: the baselines FT and FT-L."""

from __future__ import annotations

from typing import Literal

import pydantic

from alignray.chat_templates import RESERVED
from alignray.config import Config


class EditedModelConfig(Config):
    """A causal language model that is asked, edited and put back."""

    path: str
    """Folder or hub name, with safetensors weights."""
    revision: str | None = None
    """Commit or tag of a hub model; pin it for a run that others should be able to repeat."""
    adapters: tuple[str, ...] = ()
    """Folders of peft adapters, merged into the weights on loading, in this order."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Precision of weights, forward and backward; fine-tuning keeps float32 masters of the weights that it changes."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU where there is one."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """Implementation; eager for models that have no other, such as Gemma 2."""
    template: Literal["auto", "chat", "plain"] = "auto"
    """chat: a prompt is the user's turn in the tokenizer's chat template, a target the beginning of the assistant's. plain: prompt, blank,
    target, for models without a template and as the authors of LTE feed Llama. auto: chat where the tokenizer has a template."""
    template_fields: dict[str, str | bool | int] = {}
    """Further variables of the chat template, such as date_string or enable_thinking."""
    max_batch: int = pydantic.Field(16, ge=1)
    """Prompts that are computed side by side."""
    max_batch_tokens: int = pydantic.Field(4096, ge=16)
    """Rows times length of a batch, padding and room for the answer included; one that is longer goes alone."""

    @pydantic.model_validator(mode="after")
    def _fields_are_free(self) -> EditedModelConfig:
        if reserved := sorted(RESERVED & self.template_fields.keys()):
            raise ValueError(f'template_fields cannot set "{reserved[0]}"')
        return self


class FineTuneConfig(Config):
    """Gradient descent on the edits themselves: FT, and FT-L with ``max_change`` (Zhu et al., arXiv:2012.00363).

    The defaults are those with which ROME (arXiv:2202.05262) and EasyEdit run it on models of 32 layers. EasyEdit's own "FT-L" (its survey,
    arXiv:2401.01286) is something else: no limit, and all tokens of the target predicted from the prompt's last position. Not built here.
    """

    steps: int = pydantic.Field(25, ge=1)
    """Passes over the facts, at most."""
    learning_rate: float = pydantic.Field(5e-4, gt=0)
    """Of AdamW; constant, and every edit starts with fresh moments."""
    stop_loss: float = pydantic.Field(1e-2, ge=0)
    """Nats: a batch whose loss (mean over each target's tokens, then over facts) is below is not stepped on, and when the mean over all
    facts of a pass is below, the edit is done."""
    weight_decay: float = pydantic.Field(0.0, ge=0)
    """Decoupled."""
    weights: Literal["layer", "all"] = "layer"
    """layer: only the MLP's down projection of one layer. all: every weight; that takes a lower learning_rate, and memory for a copy of
    the weights, float32 masters of them, gradients and two moments."""
    layer: int | None = pydantic.Field(None, ge=0)
    """Counted from 0. null: the layer at two thirds of the depth; of 32 layers 21, which is what EasyEdit uses."""
    max_change: float | None = pydantic.Field(None, gt=0)
    """FT-L: no weight leaves this distance from its value as loaded (L-infinity), projected after each step; ROME's is 5e-4. It holds for
    a stream of edits as a whole, where the authors' code begins anew with each edit. null: FT."""
    batch_size: int = pydantic.Field(16, ge=1)
    """Facts per optimizer step; a pass over more facts takes several steps, in the order given. EasyEdit's is 1."""

    @pydantic.model_validator(mode="after")
    def _layer_is_used(self) -> FineTuneConfig:
        if self.weights == "all" and self.layer is not None:
            raise ValueError(f"weights = all changes every layer; leave out layer = {self.layer}, or take weights = layer")
        return self
