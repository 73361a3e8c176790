"""Mathematics with one right answer: GSM8K, MATH, MAWPS, SVAMP, AGIEval's questions without options."""

from alignray.evals.math.answers import final_expression, final_number, last_boxed
from alignray.evals.math.equality import same_answer, same_number
from alignray.evals.math.scoring import MathConfig, benchmark

__all__ = ["MathConfig", "benchmark", "final_expression", "final_number", "last_boxed", "same_answer", "same_number"]
