"""Which answers a Reasoning Gym scorer may see.

Some scorers hand the answer to `eval` or to SymPy's `parse_expr`, which calls `eval`: there an answer such as
`__import__('os').system('...')` is executed, and `oracle_answer`, the name of a variable of the scorer, earns credit.
A policy in training finds such things.
"""

from __future__ import annotations

import ast
import re
from typing import Any

# As of 0.1.25; a test compares them with the installed sources.
EVALUATES = {"binary_matrix", "n_queens", "spiral_matrix", "string_insertion"}
PARSES = {"countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24", "simple_integration"}

_NAME = r"[A-Za-z]|a?(?:sin|cos|tan)h?|sec|csc|cot|exp|log|ln|sqrt|Abs|pi"
_FORMULA = re.compile(rf"(?:\b(?:{_NAME})\b|[0-9]+(?:\.[0-9]+)?|[-+*/^(),\s])*+")


def harmless(task: str, answer: str, gold: Any) -> bool:
    """Whether the task's scorer may see this answer."""
    if task in PARSES:
        return bool(_FORMULA.fullmatch(answer))
    if task not in EVALUATES or answer == gold:
        return True
    try:
        ast.literal_eval(answer)
    except SyntaxError:
        return True  # text, which the scorer compares; `eval` would not run it either
    except (ValueError, TypeError, MemoryError, RecursionError):
        return False
    return True
