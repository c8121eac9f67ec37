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


def refused(message, path, text="text", label="label", **options):
    with pytest.raises(BuildError, match=message) as error:
        read_corpus(path, text, label, **options)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    refused(r"missing\.csv is not a file; give --corpus", tmp_path / "missing.csv")


def test_an_unknown_ending_is_named(tmp_path):
    (tmp_path / "corpus.txt").write_text("x")
    refused(r"ends in '\.txt'; give --corpus a \.csv, \.tsv", tmp_path / "corpus.txt")


def test_a_missing_column_names_those_there_are(tmp_path):
    path = write(tmp_path / "corpus.csv")
    refused(r"no column 'review'; it has \['text', 'label'\]", path, text="review")
    refused(r"no column '7'", write(tmp_path / "b.csv", header=None), text="0", label="7")


def test_labels_must_be_two(tmp_path):
    path = write(tmp_path / "corpus.csv")
    refused(r"'text' of .* must hold two labels, got 3: ", path, label="text", min_rows=2)


def test_a_label_that_is_too_rare_to_learn(tmp_path):
    path = tmp_path / "corpus.csv"
    path.write_text("text,label\n" + "good,1\n" * 295 + "bad,0\n" * 5)
    refused(r"label '0' of .* has 5 rows; at least 20 of each", path)


def test_too_few_rows(tmp_path):
    refused(r"has 3 rows with text; at least 200", write(tmp_path / "corpus.csv"))


def test_a_positive_label_that_does_not_occur(tmp_path):
    path = write(tmp_path / "corpus.csv")
    refused(
        r"positive label 'yes' is not in .*\['0', '1'\]; .*--positive-label",
        path,
        positive_label="yes",
        min_rows=2,
    )


def test_a_damaged_file(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"text": "a"\n')
    refused(r"corpus\.jsonl' cannot be read \(line 1, byte 12: ", path)
