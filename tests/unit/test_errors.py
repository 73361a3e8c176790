"""Errors cross processes and are told apart by what a caller may do about them."""

from __future__ import annotations

import pickle

import pytest

from alignray import errors

FAMILY = [
    errors.AlignrayError, errors.ConfigError, errors.RecordError, errors.EngineError, errors.CallRefused, errors.EngineDown,
    errors.ResumeError, errors.StorageError,
]


@pytest.mark.parametrize("cls", FAMILY)
def test_an_error_survives_pickle_with_its_arguments(cls: type[Exception]) -> None:
    back = pickle.loads(pickle.dumps(cls("context_too_long", "5,000 of 4,096 tokens")))
    assert type(back) is cls
    assert back.args == ("context_too_long", "5,000 of 4,096 tokens")


def test_all_are_of_one_family_and_of_the_builtin_that_fits() -> None:
    assert all(issubclass(cls, errors.AlignrayError) for cls in FAMILY)
    assert issubclass(errors.ConfigError, ValueError) and issubclass(errors.RecordError, ValueError)
    assert issubclass(errors.EngineError, RuntimeError) and issubclass(errors.ResumeError, RuntimeError)


def test_a_refused_call_and_a_dead_engine_are_different_engine_errors() -> None:
    assert issubclass(errors.CallRefused, errors.EngineError) and issubclass(errors.EngineDown, errors.EngineError)
    assert not issubclass(errors.CallRefused, errors.EngineDown) and not issubclass(errors.EngineDown, errors.CallRefused)


def test_no_error_has_an_init_of_its_own() -> None:
    assert not [cls for cls in FAMILY if "__init__" in vars(cls)]
