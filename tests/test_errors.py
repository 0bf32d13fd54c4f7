"""The errors: one line each, with the argument, its value and the remedy."""

from __future__ import annotations

import pickle

import pytest

from verifix.errors import InvalidType, InvalidValue, UnsupportedOperation, UserError


def test_an_invalid_value_says_argument_value_and_remedy() -> None:
    error = InvalidValue("eps", -0.1, "must be >= 0")
    assert str(error) == "eps = -0.1: must be >= 0"
    assert error.argument == "eps"
    assert isinstance(error, ValueError)


def test_an_invalid_type_says_argument_kind_and_what_is_wanted() -> None:
    error = InvalidType("x", [1, 2], "a torch.Tensor")
    assert str(error) == "x is a list: pass a torch.Tensor"
    assert error.argument == "x"
    assert isinstance(error, TypeError)


def test_an_unsupported_operation_is_a_value_error() -> None:
    error = UnsupportedOperation("operation erf at line 3 is not supported")
    assert str(error) == "operation erf at line 3 is not supported"
    assert isinstance(error, ValueError)


@pytest.mark.parametrize(
    "error",
    [InvalidValue("eps", -0.1, "must be >= 0"), InvalidType("x", None, "a torch.Tensor"), UnsupportedOperation("erf")],
)
def test_the_command_line_can_catch_them_all_and_workers_can_send_them(error: UserError) -> None:
    assert isinstance(error, UserError)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_nothing_else_is_a_user_s_error() -> None:
    assert not issubclass(ValueError, UserError)
    assert not issubclass(UserError, (ValueError, TypeError))
