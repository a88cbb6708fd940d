"""The routing atlas: which patches and words go to which expert of a trained model, as numbers and as one page."""
