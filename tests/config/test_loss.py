"""Terms of the loss, and their ranges."""

import pytest

from llmjax.config import LossConfig, default, parse


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"z_loss": -1e-4}, "z_loss is -0.0001; it must not be negative"),
        ({"label_smoothing": 1.0}, r"label_smoothing is 1.0; it must be in \[0, 1\)"),
        ({"label_smoothing": -0.1}, r"label_smoothing is -0.1; it must be in \[0, 1\)"),
    ],
)
def test_values_out_of_range_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        LossConfig(**fields)


def test_a_config_file_sets_them():
    draft = default()
    draft.loss.z_loss, draft.loss.label_smoothing = 1e-4, 0.1
    assert parse(draft).loss == LossConfig(1e-4, 0.1)
    draft.loss.z_loss = -1.0
    with pytest.raises(ValueError, match="loss.*z_loss is -1.0"):
        parse(draft)
