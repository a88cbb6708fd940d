import pytest
from omegaconf import OmegaConf

from limoe.build import build_trainer, check_tokenizer
from limoe.data.text.tokenizers import ByteBPE
from limoe.errors import ConfigError
from tests.helpers.configs import composed


def test_a_tokenizer_that_does_not_fit_the_model_is_told_with_both_numbers() -> None:
    tokenizer = ByteBPE(vocab_size=270, length=8, max_captions=10).fit(["a red circle on a blue square"] * 4)
    assert tokenizer.vocab_size == 270
    for rows in (270, 300):
        check_tokenizer(tokenizer, model=OmegaConf.create({"vocab_size": rows, "text_length": 8}))
    with pytest.raises(ConfigError) as error:
        check_tokenizer(tokenizer, model=OmegaConf.create({"vocab_size": 269, "text_length": 8}))
    assert str(error.value) == "model.vocab_size must be >= 270, the tokens of the tokenizer, got 269"
    with pytest.raises(ConfigError) as error:
        check_tokenizer(tokenizer, model=OmegaConf.create({"vocab_size": 270, "text_length": 16}))
    assert str(error.value) == "model.text_length must be 8, the length of tokenized texts, got 16"


def test_without_a_logger_the_learning_rate_is_not_watched() -> None:
    """Lightning's callback would raise; the others of the default set stay."""
    with_logger, without = (
        build_trainer(composed("experiment=scenes", f"logger={name}"), tasks={}) for name in ("csv", "none")
    )
    kinds = {type(callback).__name__ for callback in with_logger.callbacks}  # type: ignore[attr-defined]
    left = {type(callback).__name__ for callback in without.callbacks}  # type: ignore[attr-defined]
    assert kinds - left == {"LearningRateMonitor"}
