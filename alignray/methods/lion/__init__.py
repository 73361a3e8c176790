"""Lion (thesis chapter 3, arXiv:2305.12870): a student distilled on the instructions that it finds hard."""

from alignray.methods.lion.config import LionConfig, NoveltyConfig
from alignray.methods.lion.discriminate import Gap, gap_of, is_hard
from alignray.methods.lion.pools import Pools, advance, calls_of, sizes_of
from alignray.methods.lion.quality import relative_quality
from alignray.methods.lion.referee import read_scores, read_scores_as_authors
from alignray.methods.lion.sampling import drawings
from alignray.methods.lion.steps import generator_steps, judge_steps, teacher_steps
from alignray.methods.lion.summary import round_figures, samples

__all__ = [
    "Gap", "LionConfig", "NoveltyConfig", "Pools", "advance", "calls_of", "drawings", "gap_of", "generator_steps",
    "is_hard", "judge_steps", "read_scores", "read_scores_as_authors", "relative_quality", "round_figures", "samples",
    "sizes_of", "teacher_steps",
]
