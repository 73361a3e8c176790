import math
from collections.abc import Callable
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from torch import Tensor

from alignray.objectives import (
    BatchTotals,
    DPOConfig,
    FIGAConfig,
    IPOConfig,
    ORPOConfig,
    PreferenceConfig,
    RDPOConfig,
    Side,
    SimPOConfig,
    TokenWeightsConfig,
    bmc_token_weights,
    preference_loss,
    sft_loss,
    token_weights,
)
from alignray.objectives.losses import part_of

OBJECTIVES: dict[str, Callable[..., PreferenceConfig]] = {
    "dpo": DPOConfig, "ipo": IPOConfig, "ipo_avg": lambda **kw: IPOConfig(length_normalise=True, **kw), "orpo": ORPOConfig,
    "orpo_batch": lambda **kw: ORPOConfig(nll="batch_tokens", **kw), "r_dpo": RDPOConfig, "simpo": SimPOConfig, "figa": FIGAConfig,
}


def row(values: list[float], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor([values], dtype=dtype)


def side_of(policy: list[float], reference: list[float], mask: list[int]) -> Side:
    return Side(row(policy), torch.ones(1, len(policy), dtype=torch.bool), torch.tensor([mask]).bool(), row(reference))


def configs_of(hp: dict[str, float], weights: TokenWeightsConfig) -> dict[str, PreferenceConfig]:
    common: dict[str, Any] = {"weights": weights}
    return {
        "dpo": DPOConfig(beta=hp["dpo_beta"], **common),
        "ipo_sum": IPOConfig(tau=hp["ipo_tau"], length_normalise=False, **common),
        "ipo_avg": IPOConfig(tau=hp["ipo_tau"], length_normalise=True, **common),
        "rdpo_thesis_sign": RDPOConfig(beta=hp["rdpo_beta"], alpha=hp["rdpo_alpha"], **common),
        "rdpo_published_sign": RDPOConfig(beta=hp["rdpo_beta"], alpha=hp["rdpo_alpha"], length_sign="plus", **common),
        "simpo": SimPOConfig(beta=hp["simpo_beta"], gamma=hp["simpo_gamma"], **common),
        "orpo": ORPOConfig(lambda_=hp["orpo_lambda"], **common),
        "orpo_nll_weighted_total": ORPOConfig(lambda_=hp["orpo_lambda"], weighted_nll=True, **common),
    }


def test_thesis_losses_agree_with_the_vectors(spec_vectors: Callable[[str], Any]) -> None:
    data = spec_vectors("bmc_losses")
    checked = 0
    for pair in data["pairs"]:
        masks = pair["levenshtein"]
        for result in pair["results"]:
            hp = data["hyperparameters"][result["hp"]]
            chosen = side_of(pair["policy_logps_w"], pair["ref_logps_w"], masks["mask_w"])
            rejected = side_of(pair["policy_logps_l"], pair["ref_logps_l"], masks["mask_l"])
            totals = BatchTotals(1, len(pair["y_w"]))
            bmc = TokenWeightsConfig(kind="bmc", delta=hp["delta"])
            for name, weights in (("plain", TokenWeightsConfig()), ("bmc", bmc)):
                for kind, config in configs_of(hp, weights).items():
                    got = preference_loss(chosen, rejected, config, totals).loss.item()
                    assert got == pytest.approx(result[name][kind], rel=1e-9, abs=1e-9), (pair["name"], name, kind)
                    checked += 1
            for name, weights in (("thesis", TokenWeightsConfig()), ("bmc_analogue", bmc)):
                figa = FIGAConfig(alpha=hp["figa_alpha"], beta=hp["figa_beta"], weights=weights)
                got = preference_loss(chosen, rejected, figa, totals).loss.item()
                assert got == pytest.approx(result["figa"][name], rel=1e-9, abs=1e-9)
            weights_w = bmc_token_weights(chosen.policy_BT, chosen.edited_BT, delta=hp["delta"])
            assert weights_w[0].tolist() == pytest.approx(result["lambda_w"], rel=1e-12)
            _gradients_agree(pair, result, DPOConfig(beta=hp["dpo_beta"], weights=bmc))
    assert checked == len(data["pairs"]) * 3 * 2 * 8


def _gradients_agree(pair: dict[str, Any], result: dict[str, Any], config: DPOConfig) -> None:
    chosen = side_of(pair["policy_logps_w"], pair["ref_logps_w"], pair["levenshtein"]["mask_w"])
    rejected = side_of(pair["policy_logps_l"], pair["ref_logps_l"], pair["levenshtein"]["mask_l"])
    for side in (chosen, rejected):
        side.policy_BT.requires_grad_()
    preference_loss(chosen, rejected, config, BatchTotals(1, 1)).loss.backward()
    for side, key in ((chosen, "dpo_bmc_grad_wrt_policy_logps_w"), (rejected, "dpo_bmc_grad_wrt_policy_logps_l")):
        assert side.policy_BT.grad is not None
        assert side.policy_BT.grad[0].tolist() == pytest.approx(result[key], rel=1e-9, abs=1e-12)


def test_original_losses_agree_with_the_authors_code(spec_vectors: Callable[[str], Any]) -> None:
    data = spec_vectors("bmc_losses")
    for pair in data["pairs"]:
        masks = pair["original_difflib"]
        chosen = side_of(pair["policy_logps_w"], pair["ref_logps_w"], masks["mask_w"])
        rejected = side_of(pair["policy_logps_l"], pair["ref_logps_l"], masks["mask_l"])
        totals = BatchTotals(1, len(pair["y_w"]))
        for result in pair["results"]:
            hp, expected = data["hyperparameters"][result["hp"]], result["original_code"]
            weights = {"kind": "bmc", "delta": hp["delta"]}
            configs: dict[str, PreferenceConfig] = {
                "dpo_bmc": DPOConfig.model_validate({"preset": "original", "beta": hp["dpo_beta"], "weights": weights}),
                "ipo_bmc": IPOConfig.model_validate({"preset": "original", "tau": hp["ipo_tau"], "weights": weights}),
                "orpo_bmc": ORPOConfig.model_validate({"preset": "original", "lambda": hp["orpo_lambda"], "weights": weights}),
                "rdpo_bmc": RDPOConfig.model_validate({"preset": "original", "beta": hp["rdpo_beta"], "weights": weights}),
                "figa": FIGAConfig.model_validate({"preset": "original"}),
            }
            for name, config in configs.items():
                got = preference_loss(chosen, rejected, config, totals).loss.item()
                assert got == pytest.approx(expected[name], rel=1e-9, abs=1e-9), (pair["name"], name)


def test_batch_means_agree_with_the_vectors(spec_vectors: Callable[[str], Any]) -> None:
    data = spec_vectors("bmc_losses")
    chosen, rejected = _batch_of(data["pairs"])
    for means in data["batch_means"]:
        hp = data["hyperparameters"][means["hp"]]
        totals = BatchTotals(len(data["pairs"]), int(chosen.mask_BT.sum()))
        for name, weights in (("plain_mean", TokenWeightsConfig()), ("bmc_mean", TokenWeightsConfig(kind="bmc", delta=hp["delta"]))):
            for kind, config in configs_of(hp, weights).items():
                if kind in means[name]:
                    assert preference_loss(chosen, rejected, config, totals).loss.item() == pytest.approx(means[name][kind], rel=1e-9), kind


def _batch_of(pairs: list[dict[str, Any]]) -> tuple[Side, Side]:
    def padded(key: str, lengths: str, fill: float = 0.0) -> Tensor:
        longest = max(len(pair[lengths]) for pair in pairs)
        rows = [pair["levenshtein"][key] if key.startswith("mask") else pair[key] for pair in pairs]
        return torch.tensor([[*values, *[fill] * (longest - len(values))] for values in rows], dtype=torch.float64)

    def side(letter: str) -> Side:
        y = f"y_{letter}"
        lengths = torch.tensor([len(pair[y]) for pair in pairs])
        policy = padded(f"policy_logps_{letter}", y, fill=float("nan"))  # what padding holds must not matter
        mask = torch.arange(policy.shape[1]) < lengths[:, None]
        return Side(policy, mask, padded(f"mask_{letter}", y).bool(), padded(f"ref_logps_{letter}", y))

    return side("w"), side("l")


# ---- identities


def random_sides(seed: int, pairs: int = 6) -> tuple[Side, Side]:
    generator = torch.Generator().manual_seed(seed)

    def side(longest: int) -> Side:
        policy, reference = (-3 * torch.rand(pairs, longest, generator=generator, dtype=torch.float64) for _ in range(2))
        mask = torch.arange(longest) < torch.randint(1, longest + 1, (pairs, 1), generator=generator)
        return Side(policy, mask, torch.rand(pairs, longest, generator=generator) < 0.4, reference)

    return side(7), side(9)


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_delta_zero_is_the_plain_loss(name: str) -> None:
    chosen, rejected = random_sides(1)
    totals = BatchTotals(6, int(chosen.mask_BT.sum()))
    plain = preference_loss(chosen, rejected, OBJECTIVES[name](), totals)
    bmc = preference_loss(chosen, rejected, OBJECTIVES[name](weights=TokenWeightsConfig(kind="bmc", delta=0)), totals)
    torch.testing.assert_close(bmc.loss, plain.loss, rtol=0, atol=0)


@pytest.mark.parametrize("weights", ["none", "bmc", "constant", "every"])
def test_equal_policies_give_log_two(weights: Any) -> None:
    chosen, rejected = random_sides(2)
    same = [Side(side.policy_BT, side.mask_BT, side.edited_BT, side.policy_BT.clone()) for side in (chosen, rejected)]
    out = preference_loss(*same, DPOConfig(weights=TokenWeightsConfig(kind=weights)), BatchTotals(6, 1))
    assert out.loss.item() == pytest.approx(math.log(2), abs=1e-12)
    assert out.metrics["margin"].abs().max() < 1e-12


@pytest.mark.parametrize(
    "config", [DPOConfig(weights=TokenWeightsConfig(kind="bmc")), SimPOConfig(), ORPOConfig(), IPOConfig()], ids=lambda config: config.kind,
)
def test_swapping_the_sides_flips_the_margin(config: PreferenceConfig) -> None:
    chosen, rejected = random_sides(3)
    there, back = (preference_loss(*sides, config, BatchTotals(6, 1)).metrics for sides in ((chosen, rejected), (rejected, chosen)))
    for key in ("margin", "weighted_margin"):
        torch.testing.assert_close(there[key], -back[key])


@pytest.mark.parametrize("kind", ["bmc", "every"])
def test_weights_carry_no_gradient(kind: Any) -> None:
    chosen, _ = random_sides(4)
    policy = chosen.policy_BT.clone().requires_grad_()
    config = TokenWeightsConfig(kind=kind)
    weights = token_weights(policy, chosen.edited_BT, config)
    assert not weights.requires_grad
    (weights * policy).sum().backward()
    torch.testing.assert_close(policy.grad, weights)


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(name=st.sampled_from(sorted(OBJECTIVES)), cut=st.integers(0, 6), seed=st.integers(0, 50), bmc=st.booleans())
def test_any_split_of_a_batch_gives_its_loss_and_gradient(name: str, cut: int, seed: int, bmc: bool) -> None:
    sides = random_sides(seed)
    totals = BatchTotals(6, int(sides[0].mask_BT.sum()))
    config = OBJECTIVES[name](weights=TokenWeightsConfig(kind="bmc" if bmc else "none"))
    results = []
    for cuts in ([slice(0, 6)], [slice(0, cut), slice(cut, 6)]):
        leaves = [side.policy_BT.clone().requires_grad_() for side in sides]
        loss = 0.0
        for rows in cuts:
            parts = [
                part_of(Side(leaf, side.mask_BT, side.edited_BT, side.reference_BT), rows) for leaf, side in zip(leaves, sides, strict=True)
            ]
            part = preference_loss(*parts, config, totals).loss
            part.backward()
            loss += part.item()
        results.append((loss, [leaf.grad for leaf in leaves]))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-12)
    for whole, cut_up in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(whole, cut_up)


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_extremes_stay_finite(name: str) -> None:
    """Certain tokens, hopeless ones and empty edits: no NaN in loss or gradient."""
    for value in (0.0, -1e-12, -800.0, -1e4):
        leaves = [torch.full((2, 3), value, dtype=torch.float64, requires_grad=True) for _ in range(2)]
        mask = torch.ones(2, 3, dtype=torch.bool)
        edited = torch.tensor([[True, True, False], [False, False, False]])
        sides = [Side(leaf, mask, edited, torch.full((2, 3), -1.0, dtype=torch.float64)) for leaf in leaves]
        out = preference_loss(*sides, OBJECTIVES[name](weights=TokenWeightsConfig(kind="bmc")), BatchTotals(2, 6))
        out.loss.backward()
        assert out.loss.isfinite() and all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in leaves)
        assert all(metric.isfinite().all() for metric in out.metrics.values())


def test_a_needed_reference_is_asked_for() -> None:
    chosen, rejected = random_sides(5)
    bare = Side(chosen.policy_BT, chosen.mask_BT, chosen.edited_BT)
    with pytest.raises(ValueError, match="dpo needs reference"):
        preference_loss(bare, rejected, DPOConfig(), BatchTotals(6, 1))


def test_sft_is_the_mean_over_tokens() -> None:
    policy = torch.tensor([[-1.0, -2.0, -9.0], [-3.0, 5.0, 5.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert sft_loss(policy, mask, BatchTotals(2, 3)).loss.item() == pytest.approx((1 + 2 + 3) / 3)


def test_original_preset_sets_the_switches_and_a_set_switch_wins() -> None:
    config = RDPOConfig.model_validate({"preset": "original", "beta": 0.1, "weights": {"kind": "bmc"}})
    assert config.alpha is None and config.weights.reference == "own"
    assert RDPOConfig.model_validate({"preset": "original", "alpha": 0.5}).alpha == 0.5
    assert IPOConfig.model_validate({"preset": "original"}).length_normalise
    assert DPOConfig.model_validate({"preset": "original", "weights": {"reference": "policy"}}).weights.reference == "policy"
