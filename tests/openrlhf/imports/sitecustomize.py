"""On PYTHONPATH, lets OpenRLHF's training commands run on a machine without GPU up to the point where their data is ready.

Stands in for: the packages deepspeed, peft and flash_attn (CUDA builds); ``Actor``, the model on its GPU; the device mesh of
``setup_distributed`` (gloo instead). ``setup_dataloader`` writes what it was given to PROBE_OUT and ends the process. The launcher, the
parser, the reading of the data, the tokenizer and the dataset classes are the real ones.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

STUBBED = {"deepspeed", "peft", "flash_attn"}
PATCHED = "openrlhf.utils.deepspeed.deepspeed"


class Stub(ModuleType):
    """A package in which every name is some class."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class StubLoader(importlib.abc.Loader):
    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return Stub(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] in STUBBED and "openrlhf" in sys.modules:  # transformers asks for them too, and shall not find them
            return importlib.machinery.ModuleSpec(name, StubLoader(), is_package=True)
        if name == PATCHED:
            spec = importlib.machinery.PathFinder.find_spec(name, path)
            assert spec is not None and spec.loader is not None
            run = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                patch(module.DeepspeedStrategy)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
            return spec
        return None


class Actor:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.model = SimpleNamespace(config=SimpleNamespace(), is_vlm=False)

    def gradient_checkpointing_enable(self, **kwargs: Any) -> None:
        pass


def patch(strategy_class: Any) -> None:
    def setup_distributed(self: Any) -> None:
        import torch.distributed

        torch.distributed.init_process_group("gloo")
        sys.modules["__main__"].Actor = Actor  # type: ignore[attr-defined]

    def setup_dataloader(self: Any, dataset: Any, micro_batch_size: int, *args: Any, **kwargs: Any) -> None:
        probe = {"args": plain(self.args), "dataset": type(dataset).__name__, "samples": [sample(dataset, n) for n in range(len(dataset))]}
        batch = dataset.collate_fn([dataset[n] for n in range(micro_batch_size)])
        probe["batch_shapes"] = [list(item.shape) for item in batch if hasattr(item, "shape")]
        with open(os.environ["PROBE_OUT"], "w") as file:  # noqa: PTH123
            json.dump(probe, file)
        os._exit(0)

    strategy_class.setup_distributed = setup_distributed
    strategy_class.setup_dataloader = setup_dataloader
    strategy_class.get_ds_train_config = strategy_class.get_ds_eval_config = lambda self, **kwargs: {}


def plain(value: Any) -> Any:
    return {name: plain(item) for name, item in vars(value).items()} if isinstance(value, SimpleNamespace) else value


def sample(dataset: Any, number: int) -> dict[str, Any]:
    """Texts of a sample: whole, and of those tokens that the loss is taken on."""
    decode = dataset.tokenizer.decode
    if type(dataset).__name__ == "SFTDataset":
        input_ids, attention_mask, loss_mask = dataset[number]
        assert bool(attention_mask.all()) and input_ids.shape == loss_mask.shape
        targets = input_ids[0, 1:][loss_mask[0, :-1].bool()]  # the trainer's own shift
        return {"text": decode(input_ids[0]), "learned": decode(targets), "tokens": input_ids.shape[1]}
    chosen, _, rejected, _, prompt_len = dataset[number]
    sides = {"chosen": chosen[0], "rejected": rejected[0]}
    return {"prompt": decode(chosen[0][:prompt_len])} | {name: decode(ids[prompt_len:]) for name, ids in sides.items()}


sys.meta_path.insert(0, Finder())
