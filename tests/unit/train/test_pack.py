"""The two layouts of a batch: same losses, same gradients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch

from alignray.objectives import (
    BatchTotals,
    DPOConfig,
    FIGAConfig,
    IPOConfig,
    ORPOConfig,
    PreferenceConfig,
    RDPOConfig,
    SimPOConfig,
    TokenWeightsConfig,
    preference_loss,
    sft_loss,
)
from alignray.train.data import ExampleTokens, PairTokens
from alignray.train.model import TokenScorer, why_not_shared
from alignray.train.pack import CHOSEN, NOBODY, PREFIX, REJECTED, Packed, attention_mask, pack_examples, pack_pairs, pad_pairs
from tests.unit.train.models import VOCAB, random_pair, save_llama, scorer_of

BMC = TokenWeightsConfig(kind="bmc", delta=3.0)
OBJECTIVES: list[PreferenceConfig] = [
    DPOConfig(), DPOConfig(weights=BMC), IPOConfig(weights=BMC), ORPOConfig(weights=BMC), RDPOConfig(weights=BMC), SimPOConfig(weights=BMC),
    FIGAConfig(), FIGAConfig(weights=BMC),
]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("llama"))


def loss_and_gradients(
    scorer: TokenScorer, packed: Packed, config: PreferenceConfig, num_pairs: int,
) -> tuple[float, dict[str, torch.Tensor]]:
    scorer.zero_grad()
    logprobs = scorer(packed)
    chosen, rejected = (side.side(logprobs) for side in packed.sides)
    out = preference_loss(chosen, rejected, config, BatchTotals(num_pairs, int(chosen.mask_BT.sum())))
    out.loss.backward()
    return out.loss.item(), {name: p.grad.clone() for name, p in scorer.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("config", OBJECTIVES, ids=lambda config: f"{config.kind}-{config.weights.kind}")
@pytest.mark.parametrize(
    "settings", [{}, {"lora": {"rank": 4, "alpha": 8}}, {"gradient_checkpointing": False}], ids=["full", "lora", "no-checkpointing"],
)
def test_shared_prefixes_give_the_loss_and_gradient_of_padded_rows(llama: Path, config: PreferenceConfig, settings: dict[str, Any]) -> None:
    scorer = scorer_of(llama, **settings)
    pairs = [random_pair(seed) for seed in range(5)]
    expected, expected_grads = loss_and_gradients(scorer, pad_pairs(pairs), config, len(pairs))
    for row_tokens in (None, 1, 60):
        loss, grads = loss_and_gradients(scorer, pack_pairs(pairs, row_tokens=row_tokens), config, len(pairs))
        assert loss == pytest.approx(expected, rel=1e-5, abs=1e-5)
        assert grads.keys() == expected_grads.keys() and grads
        for name, grad in grads.items():
            torch.testing.assert_close(grad, expected_grads[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_layouts_agree_to_float64(llama: Path, attention: str) -> None:
    scorer = scorer_of(llama, dtype=torch.float64, attention=attention)
    pairs = [random_pair(seed) for seed in range(4)]
    padded, shared = (loss_and_gradients(scorer, pack(pairs), DPOConfig(weights=BMC), 4) for pack in (pad_pairs, pack_pairs))
    assert shared[0] == pytest.approx(padded[0], abs=1e-10)


def test_log_probabilities_are_those_of_the_model_itself(llama: Path) -> None:
    scorer = scorer_of(llama)
    pair = random_pair(3)
    ids = torch.from_numpy(np.concatenate([pair.prompt_ids, pair.chosen_ids]))[None]
    with torch.no_grad():
        logits = scorer.model(input_ids=ids).logits[0].log_softmax(-1)
        expected = logits[:-1].gather(-1, ids[0, 1:, None])[len(pair.prompt_ids) - 1 :, 0]
        packed = pack_pairs([random_pair(9), pair])
        side = packed.sides[0].side(scorer(packed))
    torch.testing.assert_close(side.policy_BT[1][side.mask_BT[1]], expected, rtol=1e-5, atol=1e-5)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(seeds=st.lists(st.integers(0, 500), min_size=1, max_size=6), row_tokens=st.one_of(st.none(), st.integers(1, 80)))
def test_every_token_is_where_it_belongs(seeds: list[int], row_tokens: int | None) -> None:
    pairs = [random_pair(seed) for seed in seeds]
    packed = pack_pairs(pairs, row_tokens=row_tokens)
    flat_ids, flat_group, flat_branch, flat_position = (
        getattr(packed, f"{name}_RL").reshape(-1) for name in ("input_ids", "group", "branch", "position_ids")
    )
    mask = attention_mask(packed)[:, 0]
    length = packed.input_ids_RL.shape[1]
    for number, pair in enumerate(pairs):
        for branch, response in ((CHOSEN, pair.chosen_ids), (REJECTED, pair.rejected_ids)):
            mine = (flat_group == number) & ((flat_branch == PREFIX) | (flat_branch == branch))
            whole = np.concatenate([pair.prompt_ids, response])
            assert flat_ids[mine].tolist() == whole.tolist()
            assert flat_position[mine].tolist() == list(range(len(whole)))
            # the last token of a branch sees its own sequence and nothing else
            last = int(mine.nonzero()[-1])
            row = mask[last // length, last % length]
            assert (row.nonzero()[:, 0] + (last // length) * length).tolist() == mine.nonzero()[:, 0].tolist()
    assert packed.num_tokens == sum(2 * len(p.prompt_ids) + len(p.chosen_ids) + len(p.rejected_ids) - p.shared for p in pairs)
    assert (flat_ids[flat_group == NOBODY] == 0).all()


def test_packing_takes_fewer_tokens_than_padding() -> None:
    pairs = [random_pair(seed, shared=5) for seed in range(8)]
    assert pack_pairs(pairs).num_tokens < 0.8 * pad_pairs(pairs).num_tokens


@pytest.mark.parametrize(("chosen", "rejected", "shared"), [
    ([5, 6, 7], [5, 6, 8], 2 + 2), ([5, 6, 7], [5, 6, 7, 9], 2 + 2), ([5], [5, 6], 2), ([5], [6], 2), ([5, 6], [5, 6], 2 + 1),
])
def test_each_side_keeps_a_token_of_its_own(chosen: list[int], rejected: list[int], shared: int) -> None:
    none = np.zeros(0, bool)
    pair = PairTokens("", np.array([1, 2]), np.array(chosen), np.array(rejected), none, none)
    assert pair.shared == shared


def test_packed_examples_have_the_loss_and_gradient_of_single_ones(llama: Path) -> None:
    scorer = scorer_of(llama)
    rng = np.random.default_rng(0)
    examples = [
        ExampleTokens(str(n), rng.integers(0, VOCAB, size), rng.random(size) < 0.6) for n, size in enumerate((7, 12, 3, 9))
    ]
    results = []
    for groups in ([[example] for example in examples], [examples]):
        for row_tokens in (None, 1):
            scorer.zero_grad()
            total = 0.0
            for group in groups:
                packed = pack_examples(group, row_tokens=row_tokens, alone=len(groups) > 1)
                side = packed.sides[0].side(scorer(packed))
                loss = sft_loss(side.policy_BT, side.mask_BT, BatchTotals(4, 20)).loss
                loss.backward()
                total += loss.item()
            grads = [p.grad for p in scorer.parameters() if p.grad is not None]
            results.append((total, torch.cat([grad.reshape(-1) for grad in grads]).clone()))
    for total, grad in results[1:]:
        assert total == pytest.approx(results[0][0], rel=1e-5)
        torch.testing.assert_close(grad, results[0][1], rtol=1e-4, atol=1e-5)


def test_models_that_cannot_share_say_why(tmp_path: Path, llama: Path) -> None:
    fine = scorer_of(llama)
    assert why_not_shared(fine, fine, torch.device("cpu")) is None

    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    MistralForCausalLM(MistralConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        sliding_window=8,
    )).save_pretrained(tmp_path)
    sliding = scorer_of(tmp_path)
    reason = why_not_shared(sliding, sliding, torch.device("cpu"))
    assert reason is not None and "sliding" in reason

    def deaf(packed: Packed) -> torch.Tensor:
        """A model that takes no notice of masks and positions."""
        causal: torch.Tensor = fine(replace(packed, is_causal=True, position_ids_RL=torch.arange(packed.input_ids_RL.shape[1])[None]))
        return causal

    reason = why_not_shared(fine, deaf, torch.device("cpu"))
    assert reason is not None and "differs by" in reason
