"""Paths of all files in a run folder, relative to it."""

RECORD = "run.json"  # status, command, hash, versions, final metrics
CONFIG = "config.yaml"  # the resolved config
TOKENIZER = "tokenizer.json"
CHECKPOINTS = "checkpoints"
LAST_CHECKPOINT = f"{CHECKPOINTS}/last.ckpt"
METRICS = "csv/metrics.csv"  # logged values by step
TENSORBOARD = "tensorboard"
HEALTH = "routing/health.jsonl"  # one line per logged step, sparse layer and modality
ALARMS = "routing/alarms.jsonl"
SAMPLES = "samples"  # test images, and samples.json with their predicted classes
SAMPLE_LIST = f"{SAMPLES}/samples.json"
REPORT = "report.html"
ATLAS = "atlas"
# A folder with one of these already holds a run.
TOP_LEVEL = (RECORD, CONFIG, TOKENIZER, CHECKPOINTS, "csv", TENSORBOARD, "routing", SAMPLES)
