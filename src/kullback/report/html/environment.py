"""The Jinja environment of all HTML reports: one escaping policy, one set of filters.

An expression that is a string is made visible (:mod:`kullback.runtime.escaping`) and escaped, so
that nothing of a corpus, a model or a command line is markup; only figures, which are drawn here,
and the output of macros are.  An undefined name is an error.  A number's unit never breaks away
from it.

A report is one file that loads nothing: no script, no font, no image from anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from kullback.report import numbers
from kullback.report.html.token_colours import KL_NAMES, SURPRISAL_NAMES, kl_level, surprisal_level
from kullback.report.svg import DARK, LIGHT, inline
from kullback.results.measurement import Measurement
from kullback.runtime.escaping import as_running_text, visible, visible_token
from kullback.runtime.files import write_atomically
from kullback.runtime.outputs import Output, check_outputs

__all__ = ["render", "write_html"]

_NO_BREAK_SPACE = "\u00a0"


def render(template: str, svgs: Mapping[str, str], **values: object) -> str:
    """The HTML that `template` makes of `values`; `svgs` are the figures, as `to_svg` gives them.

    The template finds the figures as markup in ``figures``, by name.
    """
    figures = {name: Markup(inline(svg)) for name, svg in svgs.items()}
    return _environment().get_template(template).render(figures=figures, **values)


def write_html(path: str | Path, html: str, force: bool = False) -> None:
    """Write a report to `path`, complete or not at all; missing folders are made.

    Raises `InvalidValueError` where `path` may not be written, also where it is a file of another
    kind and `force` is not given, `RunError` where writing fails.
    """
    check_outputs(Output("path", path, "report"), force=force)
    write_atomically(Path(path), html.encode())


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        # Markup, the output of macros and filters that escape, stays as it is.
        finalize=lambda value: visible(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(_FILTERS)
    environment.globals.update(
        light=LIGHT, dark=DARK, surprisal_names=SURPRISAL_NAMES, kl_names=KL_NAMES
    )
    return environment


def _unbroken(number: Callable[..., str]) -> Callable[..., str]:
    """`number`, with spaces at which a line does not break."""
    return lambda *arguments: number(*arguments).replace(" ", _NO_BREAK_SPACE)


def _running(text: str) -> Markup:
    """A token in running text, whose line ends must stay line ends."""
    return escape(as_running_text(text))


def _measurement(measured: Measurement) -> str:
    """An exact number with four decimals; any other with the digits that its interval warrants."""
    return numbers.nats(measured.value) if measured.is_exact else numbers.write(measured).both


_FILTERS: dict[str, Callable[..., object]] = {
    "measurement": _unbroken(_measurement),
    "nats": _unbroken(numbers.nats),
    "percent": _unbroken(numbers.percent),
    "probability": _unbroken(numbers.probability),
    "count": _unbroken(numbers.count),
    "bytes": _unbroken(numbers.byte_size),
    "seconds": _unbroken(numbers.seconds),
    "number": _unbroken(numbers.write_number),
    "level": surprisal_level,
    "kl_level": kl_level,
    "stacked": numbers.stacked,
    "visible": visible,
    "token": visible_token,
    "running": _running,
}
