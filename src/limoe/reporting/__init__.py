"""What people look at: reports of finished runs, tables of what a model costs, model cards."""
