"""Lightning callbacks: schedules, switches, router health and evaluation during training."""
