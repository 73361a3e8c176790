"""Whether two final answers are the same: numbers by value, LaTeX by a normal form, tuples, sets and matrices part by part.

The normal form follows what MATH's published scorer takes for equal (Hendrycks et al. 2021, arXiv:2103.03874): fractions,
roots, units, degrees, percent and dollar signs, spacing, "x = 5". Beyond it, constant expressions are compared by value, and
parts of a list one by one; nothing is simplified symbolically, and no algebra library is used.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

MAX_CHARS = 1_000
MAX_DEPTH = 40
_MAX_EXPONENT = 64
_MAX_DIGITS = 100

Value = Fraction | float

_SPACING = re.compile(
    r"\\[!,;: ]|\\(?:quad|qquad|displaystyle|textstyle|limits)\b|~|\\left(?![a-z])|\\right(?![a-z])|\\[bB]ig{1,2}[lr]?(?![a-z])",
)
_TEXT = re.compile(r"\\(?:text|mbox|textbf|textrm|textit|mathrm|mathbf|mathit|operatorname)\s?\{([^{}]{0,200})\}")
_UNIT_TEXT = re.compile(
    r"(?<=[\d})\w])\s{0,3}\\(?:text|mbox|textrm|mathrm)\s?\{\s{0,3}[^{}]{1,60}\}\s{0,2}(?:\^\s?(?:\{?\d\}?))?\s{0,2}\.?$",
)
_UNIT_WORD = re.compile(
    r"(?<=[\d}])\s{1,3}(?:(?:square|cubic)\s)?(?:cm|mm|km|m|ft|in|kg|g|lb|units?|inch(?:es)?|feet|foot|yards?|miles?|meters?|centimeters?|"
    r"hours?|minutes?|seconds?|days?|weeks?|months?|years?|dollars?|cents?|degrees?|percent|people|ways?|times|pounds?)(?:\^\{?[23]\}?)?$",
)
_NAMED = re.compile(r"^(?:[a-zA-Z](?:_\{?\w\}?)?|[a-zA-Z]\([a-z]\))\s?(?:=|\\in)\s?(?=.)")


def same_number(given: str, gold: str) -> bool:
    """Whether two plain numbers have one value: 18.0 and 18, 3/4 and .75, 1,200 and 1200.

    A percent sign on one side only may mean the number before it or a hundredth of that. A gold number with more than three
    decimals is taken for rounded: a difference of up to 0.001 is none.
    """
    left, right = _number(given), _number(gold)
    if left is None or right is None:
        return given.strip() == gold.strip()
    tolerance = Fraction(1, 1000) if len(gold.strip().rstrip("%").partition(".")[2]) > 3 else Fraction(0)
    wanted = {left}
    if ("%" in given) != ("%" in gold):
        wanted.add(left / 100 if "%" in given else left * 100)
    return any(abs(value - right) <= tolerance for value in wanted)


def same_answer(given: str, gold: str) -> bool:
    """Whether a stated answer is the gold one; both may be LaTeX. Longer than MAX_CHARS: only word for word."""
    if given.strip() == gold.strip():
        return True
    if max(len(given), len(gold)) > MAX_CHARS:
        return False
    return _same(normal_form(given), normal_form(gold), 0)


def normal_form(text: str) -> str:
    """One spelling for what is written in several: no spacing, units, dollar or degree signs, "x="; \\frac{a}{b}, \\sqrt{a}."""
    text = text.replace("\n", " ").replace("\u2212", "-").replace("\u00b0", "").replace("\\\\", "\x01")
    text = text.strip().strip("$").rstrip(".").strip()
    text = _UNIT_TEXT.sub("", text)
    text = _SPACING.sub("", text).replace("{,}", ",")
    text = re.sub(r"\\[dtc]frac\b", r"\\frac", text)
    text = re.sub(r"\^\s?(?:\{\s?\\circ\s?\}|\\circ)", "", text).replace("\\degree", "")
    text = text.replace("\\$", "").replace("$", "").replace("\\%", "%")
    text = _TEXT.sub(lambda found: found[1].strip(), text)
    text = _UNIT_WORD.sub("", text)
    text = re.sub(r"(?<=[\d)}])\s?%$", "", text)
    text = _NAMED.sub("", text.strip())
    text = re.sub(r"(?<=\d),\s?(?=\d{3}(?!\d))", "\x02", text) if _is_grouped(text) else text
    text = text.replace("\x02", "")
    text = text.replace("\\leq", "\\le").replace("\\geq", "\\ge").replace("\\neq", "\\ne").replace("\\cdot", "*").replace("\\times", "*")
    text = text.replace("\\{", "\x03").replace("\\}", "\x04").replace("\\lbrace", "\x03").replace("\\rbrace", "\x04")
    text = re.sub(r"\\sqrt\s?([^\s{\[\\])", r"\\sqrt{\1}", text)
    text = re.sub(r"\\frac\s{0,2}(\d|[a-z])\s{0,2}(\d|[a-z])", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac\s{0,2}(\d|[a-z])\s{0,2}\{", r"\\frac{\1}{", text)
    text = re.sub(r"(\\frac\{[^{}]{1,100}\})\s{0,2}(\d|[a-z])", r"\1{\2}", text)
    text = re.sub(r"(?<![\d.])\.(?=\d)", "0.", text)
    # "1 3/4" would lose its gap, and with it its value; a mixed number is one before a fraction
    mixed = re.fullmatch(r"(-?)\s{0,2}(\d{1,30})\s{1,3}(\d{1,10}/\d{1,10})", text)
    text = (f"-({mixed[2]}+{mixed[3]})" if mixed[1] else f"{mixed[2]}+{mixed[3]}") if mixed else text
    text = re.sub(r"([_^])\{(\w)\}", r"\1\2", text)
    return re.sub(r"\s+", "", text)


def _is_grouped(text: str) -> bool:
    """Whether the commas are between groups of thousands, and not between parts: a number alone, with at least one such comma."""
    return re.fullmatch(r"-?\d{1,3}(?:,\s{0,2}\d{3}){1,10}(?:\.\d{1,30})?", text.strip()) is not None


def _same(left: str, right: str, depth: int) -> bool:
    if left == right:
        return bool(left)
    if depth > MAX_DEPTH or not left or not right:
        return False
    for splitter in (_matrix, _enclosed, _listed):
        parts, others = splitter(left), splitter(right)
        if parts is not None and others is not None:
            return _same_parts(parts, others, depth)
        if (parts is None) != (others is None):
            return False
    if left.casefold() == right.casefold() and not re.search(r"[\d\\=^]", left) and len(left) > 1:
        return True  # a word: Evelyn, east
    if (first := constant(left)) is not None and (second := constant(right)) is not None:
        return _same_value(first, second)
    return _bare_letter(left) == _bare_letter(right) != ""


def _same_parts(parts: tuple[str, list[str]], others: tuple[str, list[str]], depth: int) -> bool:
    """Brackets equal and parts equal, in their order; a set's and a bare list's in any order."""
    (kind, left), (other_kind, right) = parts, others
    if kind != other_kind or len(left) != len(right):
        return False
    if kind not in ("\x03\x04", ","):
        return all(_same(one, two, depth + 1) for one, two in zip(left, right, strict=True))
    rest = list(right)
    for one in left:
        match = next((two for two in rest if _same(one, two, depth + 1)), None)
        if match is None:
            return False
        rest.remove(match)
    return True


def _same_value(left: Value, right: Value) -> bool:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left == right
    return math.isclose(float(left), float(right), rel_tol=1e-9, abs_tol=1e-12)


def _bare_letter(text: str) -> str:
    found = re.fullmatch(r"\(?([A-Z])\)?", text)
    return found[1] if found else ""


# ---- parts


def _matrix(text: str) -> tuple[str, list[str]] | None:
    found = re.fullmatch(r"\\begin\{([bpvV]?)matrix\}(.{1,900})\\end\{[bpvV]?matrix\}", text)
    if found is None:
        return None
    rows = [row for row in found[2].split("\x01") if row]
    kind = "matrix" if found[1] in ("", "b", "p") else found[1]
    return f"{kind}:{'/'.join(str(row.count('&')) for row in rows)}", [cell for row in rows for cell in row.split("&")]


def _enclosed(text: str) -> tuple[str, list[str]] | None:
    """A tuple, an interval or a set: brackets around parts, and nothing outside of them."""
    if len(text) < 3 or text[0] not in "([\x03" or text[-1] not in ")]\x04":
        return None
    inside = text[1:-1]
    parts = _split(inside, ",")
    if parts is None or (len(parts) < 2 and text[0] != "\x03"):
        return None
    return text[0] + text[-1], parts


def _listed(text: str) -> tuple[str, list[str]] | None:
    """Parts without brackets: "1,-2", "1;2", unions of intervals, "a or b"; "3 \\pm 2" is its two values."""
    for separator in ("\\cup", ";", ","):
        parts = _split(text, separator)
        if parts is not None and len(parts) > 1 and all(parts):
            return ("\\cup" if separator == "\\cup" else ";" if separator == ";" else ","), parts
    if text.count("\\pm") == 1:
        return ",", [text.replace("\\pm", "+", 1), text.replace("\\pm", "-", 1)]
    return None


def _split(text: str, separator: str) -> list[str] | None:
    """At separators outside of all brackets; None where a bracket closes that none opened. Half-open intervals count as pairs."""
    depth, parts, start, place = 0, [], 0, 0
    while place < len(text):
        if text[place] in "([{\x03":
            depth += 1
        elif text[place] in ")]}\x04":
            depth -= 1
            if depth < 0:
                return None
        elif depth == 0 and text.startswith(separator, place):
            parts.append(text[start:place])
            place += len(separator)
            start = place
            continue
        place += 1
    return [*parts, text[start:]] if depth == 0 else None


# ---- constants


def _number(text: str) -> Fraction | None:
    bare = re.sub(r"[\s,$%]", "", text).replace("\u2212", "-").rstrip(".")
    if not re.fullmatch(r"-?(?:\d{1,60}(?:\.\d{0,60})?|\.\d{1,60})(?:/\d{1,30})?", bare):
        return None
    try:
        top, _, under = bare.partition("/")
        return Fraction(top) / Fraction(under or 1)
    except (ValueError, ZeroDivisionError):
        return None


def constant(text: str) -> Value | None:
    """Value of an expression of numbers, + - * / ^, \\frac, \\sqrt, \\pi and brackets; None where there is anything else.

    Exact while it stays rational. Exponents, digits and nesting are bounded, so that no answer costs more than its length.
    """
    reader = _Reader(text)
    try:
        value = reader.sum(0)
        if reader.place != len(text):
            return None
    except (_NotConstant, ZeroDivisionError, OverflowError, ValueError):
        return None
    return value if isinstance(value, Fraction) or math.isfinite(value) else None


class _NotConstant(Exception):
    """The text is no constant expression."""


class _Reader:
    """Recursive descent over a normal form."""

    def __init__(self, text: str) -> None:
        self.text, self.place = text, 0

    def _take(self, token: str) -> bool:
        if self.text.startswith(token, self.place):
            self.place += len(token)
            return True
        return False

    def sum(self, depth: int) -> Value:
        if depth > MAX_DEPTH:
            raise _NotConstant
        value = self._product(depth)
        while True:
            if self._take("+"):
                value = _bounded(value + self._product(depth))
            elif self._take("-"):
                value = _bounded(value - self._product(depth))
            else:
                return value

    def _product(self, depth: int) -> Value:
        if self._take("-"):
            return -self._product(depth + 1) if depth < MAX_DEPTH else self._fail()
        self._take("+")
        value, mixed = self._power(depth), re.fullmatch(r"-?\d{1,30}", self.text[: self.place]) is not None
        while True:
            if self._take("*"):
                value = _bounded(value * self._power(depth))
            elif self._take("/"):
                value = _bounded(value / self._power(depth))
            elif mixed and re.match(r"\\frac\{\d{1,30}\}\{\d{1,30}\}$", self.text[self.place :]):
                value = value + self._power(depth)  # 1\frac{4}{5}; a minus before it is of the whole
            elif self.text.startswith(("(", "\\frac", "\\sqrt", "\\pi"), self.place):
                value = _bounded(value * self._power(depth))
            else:
                return value
            mixed = False

    def _power(self, depth: int) -> Value:
        value: Value = self._atom(depth)
        if self._take("^"):
            exponent = self._group(depth) if self.text.startswith("{", self.place) else self._digit()
            if abs(float(exponent)) > _MAX_EXPONENT:
                raise _NotConstant
            if isinstance(exponent, Fraction) and exponent.denominator == 1:
                return _bounded(value ** int(exponent))
            if value < 0:
                raise _NotConstant
            return _bounded(math.pow(float(value), float(exponent)))
        return value

    def _digit(self) -> Value:
        if self.place < len(self.text) and self.text[self.place] in "0123456789":
            self.place += 1
            return Fraction(int(self.text[self.place - 1]))
        raise _NotConstant

    def _group(self, depth: int) -> Value:
        if not self._take("{"):
            raise _NotConstant
        value = self.sum(depth + 1)
        if not self._take("}"):
            raise _NotConstant
        return value

    def _atom(self, depth: int) -> Value:
        found = re.compile(r"\d{1,60}(?:\.\d{1,60})?").match(self.text, self.place)
        if found is not None:
            self.place = found.end()
            return Fraction(found[0])
        if self._take("\\frac"):
            top = self._group(depth)
            return _bounded(top / self._group(depth))
        if self._take("\\sqrt"):
            return self._root(depth)
        if self._take("\\pi"):
            return math.pi
        if self._take("("):
            value = self.sum(depth + 1)
            if self._take(")"):
                return value
        elif self.text.startswith("{", self.place):
            return self._group(depth)
        raise _NotConstant

    def _root(self, depth: int) -> Value:
        degree: Value = Fraction(2)
        if self._take("["):
            degree = self._digit()
            if not self._take("]"):
                raise _NotConstant
        value = self._group(depth)
        if value < 0 or degree < 2:
            raise _NotConstant
        return math.pow(float(value), 1 / float(degree))

    def _fail(self) -> Value:
        raise _NotConstant


def _bounded(value: Value) -> Value:
    if isinstance(value, Fraction) and max(abs(value.numerator), value.denominator) > 10**_MAX_DIGITS:
        raise _NotConstant
    return value
