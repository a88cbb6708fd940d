"""Words of Hydra's override grammar."""

from hydra.core.override_parser.types import Quote, QuotedString


def quoted(value: object) -> str:
    """A string, or a path, as the value of an override, whatever it holds."""
    return QuotedString(str(value), Quote.single).with_quotes()


def override_key(word: str) -> str:
    """What an override changes, as a dotted key: `hydra.launcher` of `+hydra/launcher@there=joblib`."""
    return word.lstrip("+~").partition("=")[0].partition("@")[0].replace("/", ".")
