"""Programs that a model writes, run against tests: HumanEval and files of its form."""

from alignray.evals.code.humaneval import HumanEvalConfig, benchmark, pass_at_k
from alignray.evals.code.programs import program_of

__all__ = ["HumanEvalConfig", "benchmark", "pass_at_k", "program_of"]
