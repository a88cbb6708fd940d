"""Reports of finished runs, cost tables, figures and model cards."""
