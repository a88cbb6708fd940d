"""The names of everything in a run folder, relative to it. Written here alone; the loggers' folders in configs/ too."""

RECORD = "run.json"  # status, command, hash, versions, final metrics
CONFIG = "config.yaml"  # the resolved config
TOKENIZER = "tokenizer.json"
CHECKPOINTS = "checkpoints"
LAST_CHECKPOINT = f"{CHECKPOINTS}/last.ckpt"
METRICS = "csv/metrics.csv"  # logged values by step
TENSORBOARD = "tensorboard"
HEALTH = "routing/health.jsonl"  # one line per logged step, sparse layer and modality
ALARMS = "routing/alarms.jsonl"
SAMPLES = "samples"  # test images, and samples.json with what the model says about them
SAMPLE_LIST = f"{SAMPLES}/samples.json"
REPORT = "report.html"
ATLAS = "atlas"
# Where one of these exists, the folder already holds a run.
TOP_LEVEL = (RECORD, CONFIG, TOKENIZER, CHECKPOINTS, "csv", TENSORBOARD, "routing", SAMPLES)
