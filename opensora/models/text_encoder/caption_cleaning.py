"""Caption cleaning: the text normalization of the training captions, applied to prompts.

The rules strip what scraped captions contain and descriptions do not: links, markup, file names, shop phrases. They
are blunt ("free shipping" vanishes from any prompt), but the model was trained on captions that passed them, so they
are kept to the letter. Their order matters.

Source: opensora/models/text_encoder/t5.py (Open-Sora v1.2), itself the cleaning of DeepFloyd IF.
"""

import html
import re
import urllib.parse
import warnings
from typing import NamedTuple

import ftfy
from bs4 import BeautifulSoup, MarkupResemblesLocatorWarning


class Rule(NamedTuple):
    """One substitution."""

    pattern: re.Pattern[str]
    replacement: str
    reason: str


def _rules(*rows: tuple[str, str, str]) -> tuple[Rule, ...]:
    return tuple(Rule(re.compile(pattern), replacement, reason) for pattern, replacement, reason in rows)


_DOMAIN = r"[a-zA-Z0-9.\-]+[.](?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b\/?(?!@)"
_FILE_ENDINGS = r"(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)"
_DASHES = (
    r"\u002D\u058A\u05BE\u1400\u1806\u2010-\u2015\u2E17\u2E1A\u2E3A\u2E3B\u2E40"
    r"\u301C\u3030\u30A0\uFE31\uFE32\uFE58\uFE63\uFF0D"
)

LINK_RULES = _rules(
    (r"<person>", "person", "placeholder of anonymized names, must survive the removal of tags"),
    (rf"\b((?:https?:(?:\/{{1,3}}|[a-zA-Z0-9%])|{_DOMAIN}))", "", "http links and bare domains"),
    (
        rf"\b((?:www:(?:\/{{1,3}}|[a-zA-Z0-9%])|{_DOMAIN}))",
        "",
        "www: links, and domains left by the first rule",
    ),
)

CHARACTER_RULES = _rules(
    (r"@[\w\d]+\b", "", "nicknames"),
    (r"[\u31c0-\u9fff]+", "", "CJK: strokes, Katakana extensions, enclosed, compatibility, unified"),
    (rf"[{_DASHES}]+", "-", "every kind of dash to one (the minus sign is not among them)"),
    (r"[`´«»“”¨]", '"', "double quotes to one kind"),
    (r"[‘’]", "'", "single quotes to one kind"),
    (r"&quot;?", "", "entities that were escaped twice"),
    (r"&amp", "", "the same"),
    (r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", " ", "IP addresses"),
    (r"\d:\d\d\s+$", "", "article ids or clock times at the very end"),
    (r"\\n", " ", "a newline written as backslash and n"),
    (r"#\d{1,3}\b", "", "short numbers with a hash"),
    (r"#\d{5,}\b", "", "long numbers with a hash"),
    (r"\b\d{6,}\b", "", "long numbers"),
    (rf"[\S]+\.{_FILE_ENDINGS}", "", "file names"),
    (r"[\"\']{2,}", '"', "runs of quotes"),
    (r"[\.]{2,}", " ", "ellipses"),
    (r"[#®•©™&@·º½¾¿¡§~)(\]\[}{|\\/*]+", " ", "ornaments and brackets"),
    (r"\s+\.\s+", " ", "a full stop on its own"),
)

WORD_RULES = _rules(
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", "", "part numbers such as jc6640"),
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", "", "such as jc6640vc"),
    (r"\b\d+[a-zA-Z]+\d+\b", "", "such as 6640vc231"),
    (r"(worldwide\s+)?(free\s+)?shipping", "", "shop phrases"),
    (r"(free\s)?download(\sfree)?", "", "shop phrases"),
    (r"\bclick\b\s(?:for|on)\s\w+", "", "web page phrases"),
    (rf"\b{_FILE_ENDINGS}(\simage[s]?)?", "", "file formats, at the start of any word"),
    (r"\bpage\s+\d+\b", "", "page numbers"),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " ", "codes such as j2d1a2a"),
    (r"\b\d+\.?\d*[x\u0445×]\d+\.?\d*\b", "", "sizes such as 1920x1080; Latin or Cyrillic x, or ×"),
    (r"\b\s+\:\s+", ": ", "no space before a colon"),
    (r"(\D[,\./])\b", r"\1 ", "a space after punctuation"),
    (r"\s+", " ", "one space between words"),
    # No strip in between: a quoted caption with outer spaces keeps its quotes in the first pass.
    (r"^[\"\']([\w\W]+)[\"\']$", r"\1", "quotes around the whole caption"),
    (r"^[\'\_,\-\:;]", "", "one leading mark"),
    (r"[\'\_,\-\:\-\+]$", "", "one trailing mark"),
    (r"^\.\S+$", "", "nothing but a hidden file's name"),
)

_WORD_JOINER = re.compile(r"[-_]")
_MAX_JOINERS = 3  # a caption with more of them is taken for a file-name-like-this-one


def clean_caption(text: str) -> str:
    """Clean a caption in one pass; this is not idempotent, and `text_preprocessing` applies it twice."""
    text = urllib.parse.unquote_plus(text).strip().lower()
    text = _apply(LINK_RULES, text)
    with warnings.catch_warnings():
        # A prompt that looks like a file name is still a prompt.
        warnings.simplefilter("ignore", MarkupResemblesLocatorWarning)
        text = BeautifulSoup(text, features="html.parser").text  # removes HTML and resolves entities
    text = _apply(CHARACTER_RULES, text)
    if len(_WORD_JOINER.findall(text)) > _MAX_JOINERS:
        text = _WORD_JOINER.sub(" ", text)
    # Repairs mojibake, ligatures and odd Unicode forms; entities may have been escaped twice.
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return _apply(WORD_RULES, text).strip()


def text_preprocessing(text: str, use_text_preprocessing: bool = True) -> str:
    """Return the prompt as the text encoder expects it: cleaned twice, or only lower-cased and stripped."""
    if not use_text_preprocessing:
        return text.lower().strip()
    # Twice as in training: the first pass uncovers what the second removes, such as tags that were escaped.
    return clean_caption(clean_caption(text))


def _apply(rules: tuple[Rule, ...], text: str) -> str:
    for rule in rules:
        text = rule.pattern.sub(rule.replacement, text)
    return text
