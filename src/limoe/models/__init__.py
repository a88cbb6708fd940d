"""Networks: one tower that embeds images and texts, dense or with sparse layers."""
