"""Questions with options: AGIEval, BBH, ARC, MMLU, ECQA, QASC, OpenBookQA, StrategyQA."""

from alignray.evals.choice.answers import first_capital, read_letters, read_phrase
from alignray.evals.choice.questions import Question
from alignray.evals.choice.scoring import ChoiceConfig, benchmark

__all__ = ["ChoiceConfig", "Question", "benchmark", "first_capital", "read_letters", "read_phrase"]
