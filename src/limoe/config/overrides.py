"""Words of Hydra's override grammar."""

from hydra.core.override_parser.types import Quote, QuotedString


def quoted(value: object) -> str:
    """A string or path as a quoted value of an override."""
    return QuotedString(str(value), Quote.single).with_quotes()


def override_key(word: str) -> str:
    """Dotted key that an override changes: `hydra.launcher` for `+hydra/launcher@there=joblib`."""
    return word.lstrip("+~").partition("=")[0].partition("@")[0].replace("/", ".")
