"""Optional packages: imported where they are needed, or an error that names the extra that brings them."""

from __future__ import annotations

import importlib
from types import ModuleType

from bytegolf.errors import UserError


def need(module: str, extra: str, what: str) -> ModuleType:
    """Imports an optional package, or says which extra of bytegolf holds it.

    Raises UserError when it is not installed; `what` completes "is needed ...".
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise UserError(
            f"package {error.name} is needed {what}; install it with: pip install 'bytegolf[{extra}]'"
        ) from None
