"""Names with settings in parentheses, as the command line takes several of them."""

from __future__ import annotations

import ast
from typing import Any

from verifix.errors import InvalidValue


def split_outside(text: str, separator: str) -> list[str]:
    """The parts between those separators, one letter each, that are in no parentheses.

    >>> split_outside("ibp, crown-ibp(beta=(1, 0)),cap", ",")
    ['ibp', 'crown-ibp(beta=(1, 0))', 'cap']
    """
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if letter == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def name_and_settings(text: str, argument: str, example: str) -> tuple[str, dict[str, Any]]:
    """A name and the settings behind it: names and literals, nothing is evaluated.

    Raises:
        InvalidValue: what stands in parentheses is nothing of that kind; of ``argument``, with an example of what is.

    >>> name_and_settings("pgd(steps=5)", "attack", "pgd(steps=50)")
    ('pgd', {'steps': 5})
    """
    name, bracket, rest = text.partition("(")
    if not bracket:
        return name.strip(), {}
    try:
        call = ast.parse(f"f({rest}", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise ValueError("not settings by name")
        if any(keyword.arg is None for keyword in call.keywords):
            raise ValueError("not settings by name")
        return name.strip(), {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        raise InvalidValue(argument, text, f"settings go by name, as in '{example}'") from None
