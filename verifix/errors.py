"""The errors that verifix raises when its input is wrong.

Every message is one line: the argument, its value, and what to do. All of them are ``ValueError`` or ``TypeError``, so
callers need not know these classes; the command line catches :class:`UserError`, prints the line and exits with status
2.
"""

from __future__ import annotations


class UserError(Exception):
    """Something the caller can mend: the message names the argument, its value and the remedy."""


class InvalidValue(UserError, ValueError):
    """An argument has a value that cannot be used.

    >>> raise InvalidValue("eps", -0.1, "must be a number >= 0")
    Traceback (most recent call last):
    ...
    verifix.errors.InvalidValue: eps = -0.1: must be a number >= 0
    """

    def __init__(self, argument: str, value: object, remedy: str) -> None:
        super().__init__(argument, value, remedy)
        self.argument = argument

    def __str__(self) -> str:
        argument, value, remedy = self.args
        return f"{argument} = {value}: {remedy}"


class InvalidType(UserError, TypeError):
    """An argument is of a type that cannot be used.

    >>> raise InvalidType("x", [1, 2], "a torch.Tensor")
    Traceback (most recent call last):
    ...
    verifix.errors.InvalidType: x is a list: pass a torch.Tensor
    """

    def __init__(self, argument: str, value: object, wanted: str) -> None:
        super().__init__(argument, value, wanted)
        self.argument = argument

    def __str__(self) -> str:
        argument, value, wanted = self.args
        return f"{argument} is a {type(value).__name__}: pass {wanted}"


class UnsupportedOperation(UserError, ValueError):
    """A network holds an operation that verifix has no rule for.

    The message names the operation, the source line where torch knows it, and what to use instead.
    """
