"""What is read from the files of a run. Broken ones are in test_report.py."""

from fake_run import write_csv, write_run

from limoe.reporting.run_folder import read_run


def test_of_repeated_steps_the_last_counts(tmp_path):
    run = write_run(tmp_path / "run")
    write_csv(run / "csv" / "metrics.csv", [{"step": 1, "a": 1.0}, {"step": 2, "a": 2.0}, {"step": 1, "a": 3.0}])
    assert read_run(run).curves == {"a": {1: 3.0, 2: 2.0}}
