"""bytegolf: train, squeeze and score byte-level language models."""

from bytegolf._bytegolf import FormatError, NumericsError, __version__

__all__ = ["FormatError", "NumericsError", "__version__"]
