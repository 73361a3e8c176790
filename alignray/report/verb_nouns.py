"""What an instruction asks for, as (root verb, object noun): word lists and rules, no parser.

The thesis draws the root-verb wheel with a dependency parser. This is a heuristic that needs no model: it finds the first
verb of a closed list that stands where an imperative stands, then the head of the noun phrase behind it. It reads English
only, misses verbs outside the list, and leaves an instruction out rather than guess ("explain how rain forms" has no object).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import TypedDict

MAX_SENTENCES = 3
"""Sentences that are searched for the root verb; what follows is usually detail."""
MAX_CHARACTERS = 2000


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


VERBS = _words("""
abbreviate adapt add address adjust advise alphabetize alter analyse analyze annotate answer apply argue arrange articulate
assemble assess assign author balance begin blend brainstorm break build calculate capture categorize change
characterize check choose cite clarify classify code combine comment communicate compare compile complete compose compress
compute conclude condense conduct configure connect consider construct contrast contribute convert convey cook correct
count craft create critique debug decide deduce define delete deliver demonstrate depict derive describe design detail detect
determine develop devise diagnose differentiate discover discuss display distinguish divide document draft draw edit elaborate
elucidate emphasize emulate enhance enumerate envision establish estimate evaluate examine execute expand explain
explore express extend extract factor fill filter find fix focus follow form format formulate generate give group guess
guide help highlight hypothesize identify illustrate imagine implement improve include incorporate indicate infer inform insert
inspect integrate interpret introduce invent investigate judge justify label lay learn list locate maintain make map match
measure mention merge model modify name narrate note obtain offer optimize order organize outline paraphrase parse perform
persuade pick pinpoint plan plot point polish predict prepare present prioritize produce proofread propose prove provide
quote rank rate read rearrange recall recast recommend recount recreate redesign reduce refactor refer refine reflect
reformat reformulate reframe rephrase remove render reorder reorganize replace reply report reproduce research reshape resolve
respond restate restructure retell retrieve reverse review revise reword rewrite schedule script search select send separate set
share shorten show simplify simulate sketch solve sort speak specify split spot start state structure study submit suggest
summarise summarize support synthesize tabulate tailor take talk teach tell test trace track transcribe transform
translate turn understand update use utilize validate verify visualize walk weave weigh write
""")

_OPENERS = _words("""
please kindly now then next first second third finally also additionally instead just simply let's lets and or but so
hey hi hello ok okay
""")

# words after which a verb is a request even inside a clause: "could you write", "I need you to draft", "help me find"
_LEADS = _words("to you please me i we us should must can could would will help")

_DETERMINERS = _words("""
a an the this that these those my your our their his her its some any each every all both several many few more most another
such one two three four five six seven eight nine ten me us him them you it up out down off over at least given
""")

_BORDERS = _words("""
about above across after against along among around as at because before behind below beneath beside besides between beyond but
by considering despite during except for from given if in including inside into like near of on onto or over per regarding
since so than then though through throughout till to toward towards under until upon via when where whereas whether which while
who whom whose why how what with within without that is are was were be been being am do does did has have had can could will
would shall should may might must not and i you he she we they it there here using based titled called named entitled focused
highlighting written aimed explaining describing according related
""")

_CLAUSE_OBJECTS = _words("how what why when where whether which who whom whose if that")
_NOT_NOUNS = _words("""
following own same other different short brief long detailed concise clear simple possible main key important new good best
formal informal professional creative friendly specific general
""")
_UNCOUNTED = _words("news series species physics mathematics economics politics ethics lens gas bus analysis")

_WORD = re.compile(r"[A-Za-z][A-Za-z'’-]*|\d[\w.,%-]*|[.!?\n]+|[,;:()\"“”]")


class NounCount(TypedDict):
    """An object noun of one verb."""

    noun: str
    count: int


class VerbCount(TypedDict):
    """A root verb, all its uses, and its most frequent object nouns."""

    verb: str
    count: int
    nouns: list[NounCount]


class VerbNounStructure(TypedDict):
    """The wheel: of ``total`` instructions, ``recognised`` gave a pair; ``verbs`` are the most frequent, in order."""

    total: int
    recognised: int
    pairs: int
    """Distinct pairs, a count of variety."""
    verbs: list[VerbCount]


def root_verb_noun(instruction: str) -> tuple[str, str] | None:
    """Root verb and singular object noun in lower case, or None where the rules find no pair."""
    for sentence in _sentences(instruction[:MAX_CHARACTERS]):
        for position in _verb_positions(sentence):
            noun = _object_noun(sentence[position + 1 :])
            if noun is not None:
                return sentence[position], noun
    return None


def verb_noun_structure(instructions: Iterable[str], *, top_verbs: int = 20, top_nouns: int = 4) -> VerbNounStructure:
    """The most frequent root verbs, each with its most frequent object nouns; ties in alphabetical order."""
    pairs: Counter[tuple[str, str]] = Counter()
    total = 0
    for instruction in instructions:
        total += 1
        pair = root_verb_noun(instruction)
        if pair is not None:
            pairs[pair] += 1
    return structure_of(pairs, total=total, top_verbs=top_verbs, top_nouns=top_nouns)


def structure_of(
    pairs: Counter[tuple[str, str]], *, total: int, top_verbs: int = 20, top_nouns: int = 4
) -> VerbNounStructure:
    """The wheel of pairs that have been counted already."""
    by_verb: Counter[str] = Counter()
    for (verb, _), count in pairs.items():
        by_verb[verb] += count
    verbs: list[VerbCount] = []
    for verb, count in _most(by_verb, top_verbs):
        nouns = Counter({noun: uses for (owner, noun), uses in pairs.items() if owner == verb})
        verbs.append(
            VerbCount(verb=verb, count=count, nouns=[NounCount(noun=n, count=c) for n, c in _most(nouns, top_nouns)])
        )
    return VerbNounStructure(total=total, recognised=sum(pairs.values()), pairs=len(pairs), verbs=verbs)


def _most(counts: Counter[str], top: int) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:top]


def _sentences(text: str) -> list[list[str]]:
    sentences: list[list[str]] = [[]]
    for token in _WORD.findall(text):
        if token[0] in ".!?\n":
            if len(sentences) == MAX_SENTENCES and sentences[-1]:
                break
            if sentences[-1]:
                sentences.append([])
        else:
            sentences[-1].append(token.lower().replace("’", "'"))
    return [sentence for sentence in sentences if sentence][:MAX_SENTENCES]


def _verb_positions(words: list[str]) -> list[int]:
    """Places of listed verbs that open a clause, then of those behind a word that asks."""
    opening, asking = [], []
    at_start = True
    for position, word in enumerate(words):
        is_verb = word in VERBS
        if is_verb and at_start:
            opening.append(position)
        elif is_verb and position and words[position - 1] in _LEADS:
            asking.append(position)
        if word in ",;:()":
            at_start = True
        elif not (at_start and (word in _OPENERS or word.endswith("ly"))):
            at_start = False
    # "help me write a poem": help only introduces the verb that counts
    places = sorted(opening + asking)
    return [p for p in places if not (words[p] == "help" and any(p < later <= p + 4 for later in places))]


def _object_noun(words: list[str]) -> str | None:
    """Head of the noun phrase that begins here: its last word before a preposition, a clause or a comma."""
    phrase: list[str] = []
    skip_verb = False
    for position, word in enumerate(words):
        if skip_verb and word in VERBS:
            skip_verb = False
            continue
        if not phrase:
            if word == "and" and position == 0:  # "compare and contrast the laws"
                skip_verb = True
                continue
            if word in _CLAUSE_OBJECTS and word != "that":
                return None
            if word in _DETERMINERS or word[0].isdigit() or word.endswith("ly") or word in '"“”':
                continue
        if not word[0].isalpha() or word in _BORDERS or (phrase and _is_participle(word)):
            break
        if not word.endswith("'s"):
            phrase.append(word)
    while phrase and (phrase[-1] in _NOT_NOUNS | _DETERMINERS or phrase[-1].endswith("ly")):
        phrase.pop()
    return _singular(phrase[-1].strip("'-")) if phrase and len(phrase[-1]) > 1 else None


def _is_participle(word: str) -> bool:
    if not word.endswith("ing") or len(word) < 6:
        return False
    stem = word[:-3]
    return stem in VERBS or stem + "e" in VERBS or (stem[-1] == stem[-2] and stem[:-1] in VERBS)


def _singular(noun: str) -> str:
    if noun in _UNCOUNTED or len(noun) < 4 or noun.endswith(("ss", "us", "is")) or not noun.endswith("s"):
        return noun
    if noun.endswith("ies"):
        return noun[:-3] + "y"
    if noun.endswith(("sses", "xes", "zes", "ches", "shes")):
        return noun[:-2]
    return noun[:-1]
