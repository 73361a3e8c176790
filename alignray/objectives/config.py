"""What is optimised. Defaults are the thesis' (Tables 6.7, D.2, D.3); ``preset: original`` computes as the authors' code does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import pydantic

from alignray.config import Config


class TokenWeightsConfig(Config):
    """How much each response token counts."""

    kind: Literal["none", "bmc", "constant", "every"] = "none"
    """none: plain; bmc: 1 + min(1/p, delta) on edited tokens. Baselines: constant (CW), 1 + delta on edited tokens whatever the
    confidence; every (EW), BMC's weight on all tokens, edited or not."""
    delta: float = pydantic.Field(3.0, ge=0)
    """Cap on 1/p. Thesis Table D.3: QA 3.0, math 2.5, instructions 2.0."""
    reference: Literal["policy", "own"] = "policy"
    """Weights of the reference's log-probabilities: the policy's (thesis Eq. 6.4), or its own confidence's (the authors' code)."""


class SFTConfig(Config):
    """Negative log-likelihood of the target tokens, mean over the tokens of the global batch."""

    kind: Literal["sft"] = "sft"


class _Preference(Config):
    """What every preference loss has."""

    preset: Literal["thesis", "original"] = "thesis"
    """original: the defaults of the switches are those of the authors' code; a switch that is set wins."""
    weights: TokenWeightsConfig = TokenWeightsConfig()
    """Token weights; bmc makes DPO into DPO-BMC, and so on."""

    ORIGINAL: ClassVar[Mapping[str, Any]] = {}
    needs_reference: ClassVar[bool] = True

    @pydantic.model_validator(mode="before")
    @classmethod
    def _preset_defaults(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or data.get("preset") != "original":
            return data
        weights = data.get("weights", {})
        if isinstance(weights, Mapping):
            data = {**data, "weights": {"reference": "own", **weights}}
        return {**cls.ORIGINAL, **data}


class DPOConfig(_Preference):
    """-log sigmoid(beta z), z the difference of the two log-ratios (thesis Eq. 6.1, 6.4)."""

    kind: Literal["dpo"] = "dpo"
    beta: float = pydantic.Field(0.05, gt=0)


class IPOConfig(_Preference):
    """(z - 1 / (2 tau))^2 (Table D.2)."""

    kind: Literal["ipo"] = "ipo"
    tau: float = pydantic.Field(0.1, gt=0)
    length_normalise: bool = False
    """Each response's score divided by its number of tokens, as in TRL and the authors' code; the thesis sums."""

    ORIGINAL: ClassVar[Mapping[str, Any]] = {"length_normalise": True}


class ORPOConfig(_Preference):
    """Likelihood of the chosen response plus a log-odds term over length-averaged log-probabilities; no reference model."""

    kind: Literal["orpo"] = "orpo"
    lambda_: float = pydantic.Field(0.1, gt=0, alias="lambda")
    nll: Literal["example", "batch_tokens"] = "example"
    """Likelihood averaged over each example's tokens (thesis), or over all chosen tokens of the global batch (the authors' code)."""
    weighted_nll: bool = False
    """The likelihood term takes the token weights too (Table D.2 read literally)."""

    model_config = pydantic.ConfigDict(populate_by_name=True)
    ORIGINAL: ClassVar[Mapping[str, Any]] = {"nll": "batch_tokens"}
    needs_reference: ClassVar[bool] = False


class RDPOConfig(_Preference):
    """DPO with a length term: -log sigmoid(beta z -+ alpha (|y_w| - |y_l|)) (Table D.2)."""

    kind: Literal["r_dpo"] = "r_dpo"
    beta: float = pydantic.Field(0.05, gt=0)
    alpha: float | None = 0.05
    """Weight of the length difference; null: beta, as the authors' code ties them (there the difference is inside beta's bracket)."""
    length_sign: Literal["minus", "plus"] = "minus"
    """minus: as printed in the thesis. plus: what follows from penalising length in the reward, r - alpha |y|."""

    ORIGINAL: ClassVar[Mapping[str, Any]] = {"alpha": None}


class SimPOConfig(_Preference):
    """-log sigmoid(beta (mean log p_w - mean log p_l) - gamma); no reference model."""

    kind: Literal["simpo"] = "simpo"
    beta: float = pydantic.Field(2.0, gt=0)
    gamma: float = pydantic.Field(0.5, ge=0)

    needs_reference: ClassVar[bool] = False


class FIGAConfig(_Preference):
    """-alpha sum over edited tokens of log p_w + beta sum over edited tokens of log p_l (Table D.2); no reference model."""

    kind: Literal["figa"] = "figa"
    alpha: float = 1.0
    beta: float = 0.5

    needs_reference: ClassVar[bool] = False


PreferenceConfig = DPOConfig | IPOConfig | ORPOConfig | RDPOConfig | SimPOConfig | FIGAConfig
ObjectiveConfig = Annotated[SFTConfig | PreferenceConfig, pydantic.Field(discriminator="kind")]
