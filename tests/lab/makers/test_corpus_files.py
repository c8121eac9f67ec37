import csv
import json

import pytest

from tokengym.lab.makers.options import BuildError
from tokengym.lab.makers.real_text import LabelledText, read_corpus

ROWS = [('a "fine" film, really', 1), ("it drags", 0), ("  ", 1), ("good", 1)]
EXPECTED = [
    LabelledText('a "fine" film, really', True),
    LabelledText("it drags", False),
    LabelledText("good", True),
]


def write(path, header=("text", "label")):
    rows = [header, *ROWS] if header else ROWS
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    elif path.suffix == ".tsv":
        path.write_text("".join(f"{text}\t{label}\n" for text, label in rows))
    elif path.suffix == ".jsonl":
        lines = [json.dumps({"text": text, "label": label}) for text, label in ROWS]
        path.write_text("\n".join(lines) + "\n")
    else:
        import pandas

        pandas.DataFrame(ROWS, columns=list(header)).to_parquet(path)
    return path


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_reads_alike(tmp_path, ending):
    path = write(tmp_path / f"corpus.{ending}")
    assert read_corpus(path, "text", "label", min_rows=2) == EXPECTED


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_integers_read_a_file_without_header(tmp_path, ending):
    path = write(tmp_path / f"corpus.{ending}", header=None)
    assert read_corpus(path, "0", "1", min_rows=2) == EXPECTED


def test_the_positive_label_can_be_named(tmp_path):
    path = write(tmp_path / "corpus.csv")
    rows = read_corpus(path, "text", "label", positive_label="0", min_rows=2)
    assert [row.positive for row in rows] == [False, True, False]


@pytest.mark.parametrize(
    ("name", "columns", "options", "message"),
    [
        ("missing.csv", ("text", "label"), {}, r"missing\.csv is not a file; give --corpus"),
        ("notes.txt", ("text", "label"), {}, r"'\.txt'; give --corpus a \.csv, \.tsv"),
        ("good.csv", ("review", "label"), {}, r"no column 'review'; it has \['text', 'label'\]"),
        ("bare.csv", ("0", "7"), {}, r"no column '7'"),
        ("good.csv", ("text", "text"), {"min_rows": 2}, r"'text' of .* two labels, got 3: "),
        ("rare.csv", ("text", "label"), {}, r"label '0' of .* has 5 rows; at least 20 of each"),
        ("good.csv", ("text", "label"), {}, r"has 3 rows with text; at least 200"),
        (
            "good.csv",
            ("text", "label"),
            {"positive_label": "yes", "min_rows": 2},
            r"positive label 'yes' is not in .*\['0', '1'\]; .*--positive-label",
        ),
        ("torn.jsonl", ("text", "label"), {}, r"torn\.jsonl' cannot be read \(line 1, byte 12: "),
    ],
)
def test_what_is_no_corpus_is_said_in_one_line(tmp_path, name, columns, options, message):
    write(tmp_path / "good.csv")
    write(tmp_path / "bare.csv", header=None)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "rare.csv").write_text("text,label\n" + "good,1\n" * 295 + "bad,0\n" * 5)
    (tmp_path / "torn.jsonl").write_text('{"text": "a"\n')
    with pytest.raises(BuildError, match=message) as error:
        read_corpus(tmp_path / name, *columns, **options)
    assert "\n" not in str(error.value)
