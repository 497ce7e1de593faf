"""The pre-tokenizers that llama.cpp knows by name (`tokenizer.ggml.pre`), as regular expressions.

A text is split by the first pattern, into its matches and what is between them; each part is split
by the second, and so on.  The patterns are those that llama.cpp runs, which are not always those of
the model's own tokenizer: its `\\p{Lu}` is any letter, its `\\d` one of the ten digits.  They are
written for Oniguruma, the engine of the library `tokenizers`, whose `\\s` and `\\p` mean the same
characters.  Names and settings are those of llama.cpp of October 2026 (src/llama-vocab.cpp).

The names in `RAW` are not among them: their models do not spell bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["PRE_TOKENIZERS", "RAW", "PreTokenizer"]

#: Whose tokens are characters, which llama.cpp alone reads here.
RAW = ("gemma4", "granite-embed-multi-311m", "mmbert", "sarvam-moe", "whitespace")


@dataclass(frozen=True)
class PreTokenizer:
    """How a byte-pair tokenizer splits a text, and what its name says besides."""

    patterns: tuple[str, ...]
    ignores_merges: bool = False
    """Whether a part of the text that is a token is not merged from its letters."""
    adds_bos: bool = False
    """Whether texts begin with BOS where the file does not say it."""
    has_bos: bool = True
    """Whether there is a BOS token where the file names none: that of the id 11."""


CONTRACTION = "'(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])"
WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
SPACES = r"\s+(?!\S)|\s+"
LINES = rf"\s*[\r\n]+|{SPACES}"
# Letters that are not lower case, then letters that are not upper case, of the ASCII ones.
UPPER, LOWER = r"[\p{L}&&[^a-z]]", r"[\p{L}&&[^A-Z]]"
MARKED_UPPER, MARKED_LOWER = r"[\p{L}\p{M}&&[^a-z]]", r"[\p{L}\p{M}&&[^A-Z]]"
MARKED = r"[\p{L}\p{M}]"


def _cased(upper: str, lower: str, ending: str = "") -> str:
    """A word whose upper-case letters come first, with one character before it."""
    before = r"[^\r\n\p{L}\p{N}]?"
    return f"{before}{upper}*{lower}+{ending}|{before}{upper}+{lower}*{ending}"


def _like_llama3(digits: str, spaces: str = LINES) -> str:
    return rf"{CONTRACTION}|{WORD}|{digits}|{SYMBOLS}|{spaces}"


def _like_gpt4o(words: str, digits: str = r"\p{N}{1,3}") -> str:
    return rf"{words}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{LINES}"


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = _like_llama3(r"\p{N}{1,3}")
QWEN2 = _like_llama3(r"\p{N}")
GPT4O = _like_gpt4o(_cased(UPPER, LOWER, f"(?:{CONTRACTION})?"))
ANY_CASE = _like_gpt4o(_cased(f"{MARKED}", f"{MARKED}", f"(?:{CONTRACTION})?"))
BLOOM = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
KANA = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
# Without the white space in these ranges, which llama.cpp takes for a vertical tab.
EAST_ASIAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff&&[^\\s]]+"
ASCII_SYMBOL = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"
DEEPSEEK3 = (
    rf"{ASCII_SYMBOL}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?{MARKED}+"
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{LINES}"
)
# Groups of three digits, counted from the last; what is before a number is part of its first group.
DIGITS_FROM_THE_RIGHT = r"\P{N}*\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))"
HAN = (
    "\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002ebef\uf900-\ufaff"
    "\U0002f800-\U0002fa1f"
)
DEEPSEEK_LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293"
    "\u0295-\u02af\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c"
    "\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5"
    "\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59"
    "\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc"
    "\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107"
    "\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee"
    "\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e"
    "\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f"
    "\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2"
    "\U000118a0-\U000118df\U0001e900-\U0001e943"
)

_GPT2 = PreTokenizer((GPT2,))
_DIGITS = PreTokenizer((r"\p{N}", GPT2))
_LLAMA3 = PreTokenizer((LLAMA3,))
_LLAMA3_WHOLE = PreTokenizer((LLAMA3,), ignores_merges=True, adds_bos=True)
_QWEN2 = PreTokenizer((QWEN2,))
_GPT4O = PreTokenizer((GPT4O,))
_BLOOM = PreTokenizer((BLOOM,))
_DEEPSEEK3 = PreTokenizer((r"\p{N}{1,3}", KANA, DEEPSEEK3))
_BAILING = PreTokenizer(
    (rf"{CONTRACTION}|{WORD}|\p{{N}}|{SYMBOLS}|\s*[\r\n]|{SPACES}",),
)

_GROUPS: tuple[tuple[str, PreTokenizer], ...] = (
    (
        "default",
        PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    ),
    (
        "gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert "
        "jina-v1-en jina-v2-code roberta-bpe mpt olmo jais trillion granite-docling exaone4",
        _GPT2,
    ),
    ("starcoder refact command-r smollm codeshell exaone minerva-7b mellum2", _DIGITS),
    (
        "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
        _LLAMA3_WHOLE,
    ),
    ("dbrx smaug-bpe", _LLAMA3),
    ("chatglm-bpe", PreTokenizer((LLAMA3,), has_bos=False)),
    ("glm4 glm5", PreTokenizer((LLAMA3,), ignores_merges=True, has_bos=False)),
    (
        "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2",
        _QWEN2,
    ),
    (
        "qwen35",
        PreTokenizer(
            (
                rf"{CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?{MARKED}+|\p{{N}}"
                rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{LINES}",
            )
        ),
    ),
    ("ufakzeka", PreTokenizer((rf"{WORD}|\p{{N}}|{SYMBOLS}|{LINES}",))),
    (
        "k2-horizon",
        PreTokenizer(
            (
                rf"{CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}\u200c\u200d]+|\p{{N}}{{1,3}}"
                rf"|{SYMBOLS}|{LINES}",
            )
        ),
    ),
    ("laguna", PreTokenizer((r"[^\n]+|\n+", QWEN2))),
    (
        "minicpm5",
        PreTokenizer((r"\p{N}{1,3}", _like_llama3(r"\p{N}+")), ignores_merges=True),
    ),
    (
        "seed-coder",
        PreTokenizer(
            (rf"{CONTRACTION}|{WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{LINES}",),
        ),
    ),
    ("bailingmoe bailingmoe2 llada-moe", _BAILING),
    (
        "exaone-moe",
        PreTokenizer(
            (
                rf"{CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+"
                rf"|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]?|\s*[\r\n]|{SPACES}",
            )
        ),
    ),
    (
        "jais-2",
        PreTokenizer(
            (
                _like_llama3(
                    r"\p{N}{1,3}",
                    r"\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)"
                    r"|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s",
                ),
            )
        ),
    ),
    ("falcon", PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"))),
    ("poro-chat bloom gpt3-finnish", _BLOOM),
    ("viking", PreTokenizer((BLOOM, r"\p{N}"))),
    (
        "tekken",
        PreTokenizer(
            (_like_gpt4o(_cased(UPPER, LOWER), r"\p{N}"),), ignores_merges=True, adds_bos=True
        ),
    ),
    ("gpt-4o llama4 kanana2 talkie minimax-m2", _GPT4O),
    (
        "granite-embed-multi-97m",
        PreTokenizer(
            (_like_gpt4o(_cased(MARKED_UPPER, MARKED_LOWER, f"(?:{CONTRACTION})?")),),
            ignores_merges=True,
        ),
    ),
    ("tiny_aya cohere2moe", PreTokenizer((DIGITS_FROM_THE_RIGHT, ANY_CASE))),
    (
        "youtu",
        PreTokenizer(
            (
                "[\uac00-\ud7a3\u3131-\u318e]+"
                "|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+"
                f"|[\u3105-\u312f]+|{KANA}",
                _like_gpt4o(_cased(MARKED, MARKED, f"(?:{CONTRACTION})?"), r"\p{N}"),
            ),
            ignores_merges=True,
        ),
    ),
    (
        "kimi-k2",
        PreTokenizer(
            (
                rf"[{HAN}]+|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}&&[^{HAN}]]+(?:{CONTRACTION})?"
                rf"|\p{{N}}{{1,3}}|{SYMBOLS}|{LINES}",
            )
        ),
    ),
    ("superbpe", PreTokenizer((r"\p{N}+", r"(?=([0-9]{3})+(?![0-9]))"))),
    ("deepseek-v3 hunyuan-dense hy_v4 joyai-llm", _DEEPSEEK3),
    (
        "spark2_5",
        PreTokenizer(
            (
                r"\p{N}{1,3}",
                KANA,
                rf"{ASCII_SYMBOL}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?{MARKED}+"
                rf"| ?[\p{{P}}\p{{S}}]+|[\r\n]|{SPACES}",
                r"\p{N}",
            )
        ),
    ),
    (
        "deepseek-llm",
        PreTokenizer(
            (
                r"[\r\n]",
                rf"\s?[{DEEPSEEK_LETTERS}]+",
                "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3001-\u3002]+",
                r"\s+\z",
                EAST_ASIAN,
                r"\p{N}+",
            )
        ),
    ),
    (
        "deepseek-coder",
        PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", EAST_ASIAN, r"\p{N}")),
    ),
    (
        "chameleon",
        PreTokenizer(
            (
                "<sentinel:[0-9]+>",
                "IMGIMG[A-I]{1,4}Z",
                r"[\t\n]|    |  ",
                r"\p{N}",
                r"[\p{P}!-/:-@\[-`{-~]",
                GPT2,
            ),
            adds_bos=True,
        ),
    ),
    (
        "afmoe",
        PreTokenizer(
            (
                DIGITS_FROM_THE_RIGHT,
                "[\u4e00-\u9fff\u3400-\u4dbf\u8c48-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f"
                "\u2f00-\u2fdf\u0e40-\u0e7f\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f"
                "\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+",
                DEEPSEEK3,
            )
        ),
    ),
)

PRE_TOKENIZERS: Mapping[str, PreTokenizer] = {
    name: pre_tokenizer for names, pre_tokenizer in _GROUPS for name in names.split()
}
