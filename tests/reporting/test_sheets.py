"""Tables as CSV and LaTeX."""

from pathlib import Path

from limoe.reporting.sheets import Entry, as_csv, as_latex, sheet, write_sheet

TABLE = sheet("cost", ["variant", "GFLOP"], [["a_b", Entry("1.2 ± 0.1 %", 0.0123456789)], ["x, y", "–"]])


def test_csv_has_the_numbers_and_latex_the_texts() -> None:
    assert as_csv(TABLE) == 'variant,GFLOP\na_b,0.0123457\n"x, y",–\n'
    assert as_latex(TABLE) == (
        "\\begin{tabular}{lr}\n\\toprule\nvariant & GFLOP \\\\\n\\midrule\n"
        "a\\_b & 1.2 $\\pm$ 0.1 \\% \\\\\nx, y & -- \\\\\n\\bottomrule\n\\end{tabular}\n"
    )


def test_latex_escapes_what_it_would_execute() -> None:
    hostile = sheet("x", ["k"], [["\\input{/etc/passwd} $x$ #1 ~^"]])
    assert r"\textbackslash{}input\{/etc/passwd\} \$x\$ \#1 \textasciitilde{}\textasciicircum{} \\" in as_latex(hostile)


def test_an_empty_sheet_leaves_no_file_of_an_earlier_report(tmp_path: Path) -> None:
    write_sheet(TABLE, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cost.csv", "cost.tex"]
    write_sheet(sheet("cost", ["variant"], []), tmp_path)
    assert not list(tmp_path.iterdir())
