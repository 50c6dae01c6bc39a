"""The user's table: every fault is named with its row, and one bad row costs one row."""

import csv
import dataclasses
import io
from pathlib import Path

import polars as pl
import pytest

from video.index.rows import (
    RESERVED,
    Columns,
    alike_names,
    check_rows,
    read_index,
    settle_paths,
    unknown_labels,
)
from video.index.table import IndexFileError, read_table
from video.source.facts import VideoFacts

REAL = Path(__file__).parents[3] / "shared" / "real"
needs_real = pytest.mark.skipif(
    not REAL.is_dir(), reason="the real data sets are not beside this checkout"
)

COLUMNS = Columns(path="video_path", label="label", group="group")
HEADER = "video_path,label,group\n"
LABELS = ["fake", "real"]


def rows_of(text: str, columns: Columns = COLUMNS) -> list[dict[str, object]]:
    return read(text.encode(), columns).to_dicts()


def read(content: bytes, columns: Columns = COLUMNS) -> pl.DataFrame:
    wanted = [name for name in vars(columns).values() if name]
    return read_index(read_table(content, wanted), columns)


def faults_of(content: str | bytes, columns: Columns = COLUMNS) -> tuple[str, ...]:
    with pytest.raises(IndexFileError) as caught:
        read(content.encode() if isinstance(content, str) else content, columns)
    return caught.value.faults


def checked(tmp_path: Path, *rows: str, files: str = "") -> tuple[list[int], dict[int, str]]:
    """Return the rows kept, and the other rows' verdicts, for a root that holds `files`."""
    for name in files.split():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    frame = settle_paths(read((HEADER + "\n".join(rows) + "\n").encode()), tmp_path)
    usable, rejections = check_rows(frame, tmp_path, LABELS)
    reasons = {item.row: f"{item.verdict}: {item.reason}" for item in rejections}
    assert len(reasons) == len(rejections)
    assert sorted([*usable["row"], *reasons]) == frame["row"].to_list()
    return usable["row"].to_list(), reasons


# --- the table ---------------------------------------------------------------------------------


def test_rows_are_numbered_from_one_and_an_empty_group_is_null() -> None:
    assert rows_of(HEADER + "a.mp4,fake,g\nb.mp4,real,\n") == [
        {"row": 1, "video_path": "a.mp4", "label": "fake", "group": "g"},
        {"row": 2, "video_path": "b.mp4", "label": "real", "group": None},
    ]


def test_all_missing_columns_are_named_at_once_with_their_parameter() -> None:
    faults = faults_of("label,url\nfake,x\n")

    assert faults == (
        "expected a column 'video_path', got the columns label, url; add it, or name yours in "
        "params.yaml at data.path_column",
        "expected a column 'group', got the columns label, url; add it, or name yours in "
        "params.yaml at data.group_column",
    )


def test_the_columns_may_have_other_names() -> None:
    columns = Columns(path="file", label="class", group="source")

    assert rows_of("class,source,file\nfake,g,a.mp4\n", columns) == [
        {"row": 1, "video_path": "a.mp4", "label": "fake", "group": "g"}
    ]


def test_groups_and_labels_that_look_the_same_are_the_same() -> None:
    spellings = ("cafe\u0301", " caf\u00e9", "caf\u00e9 ", "caf\u00e9\u00a0")
    rows = rows_of(HEADER + "".join(f"{i}.mp4,real ,{name}\n" for i, name in enumerate(spellings)))

    assert {row["group"] for row in rows} == {"caf\u00e9"}
    assert {row["label"] for row in rows} == {"real"}


def test_groups_that_differ_in_case_or_white_space_alone_are_named() -> None:
    groups = pl.Series(["cam1", "Cam1", "cam 1", "cam2", None, "cam1"])

    assert alike_names(groups) == [["Cam1", "cam 1", "cam1"]]


@pytest.mark.parametrize("content", ["", "\n\n", "  \n"])
def test_an_empty_file_is_refused(content: str) -> None:
    assert faults_of(content) == ("expected a header and rows, got an empty file; add the videos",)


@pytest.mark.parametrize("rows", ["", "\n\n", ",,\n,,\n"], ids=["none", "blank", "only commas"])
def test_a_table_without_a_row_is_refused(rows: str) -> None:
    assert faults_of(HEADER + rows) == (
        "expected at least one row below the header, got none; add the videos",
    )


def test_a_file_that_is_not_utf8_is_refused_with_line_and_byte() -> None:
    content = (HEADER + "a.mp4,fake,g\ncafé.mp4,fake,g\n").encode("latin-1")

    assert faults_of(content) == ("line 3: expected UTF-8, got byte 0xe9; save it as UTF-8",)


def test_a_byte_order_mark_is_no_part_of_the_first_column() -> None:
    assert rows_of("\ufeff" + HEADER + "a.mp4,fake,g\n")[0]["video_path"] == "a.mp4"


PLAIN = HEADER + 'a.mp4,fake,g\n"b, c.mp4",real,\n\nd.mp4,real,"h ""1"""\n'


def written(separator: str, *, sep_line: bool = False) -> str:
    lines = list(csv.reader(io.StringIO(PLAIN)))
    stream = io.StringIO()
    csv.writer(stream, delimiter=separator, lineterminator="\n").writerows(lines)
    return (f"sep={separator}\n" if sep_line else "") + stream.getvalue()


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("sep_line", [False, True], ids=["", "sep="])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_whatever_a_spreadsheet_writes_is_read_alike(
    separator: str, sep_line: bool, end: str, encoding: str
) -> None:
    text = written(separator, sep_line=sep_line).replace("\n", end)

    assert read(text.encode(encoding)).equals(read(PLAIN.encode()))


def test_the_form_of_the_table_is_told() -> None:
    def form(content: bytes) -> str:
        return read_table(content, ["video_path"]).form

    assert form(HEADER.encode()) == "UTF-8, fields separated by commas"
    assert form(b"\xef\xbb\xbfvideo_path;label\n") == (
        "UTF-8 with a byte order mark, fields separated by semicolons"
    )
    assert form("sep=\t\nvideo_path\tlabel\n".encode("utf-16")) == (
        "UTF-16, fields separated by tabs, as its first line says"
    )


def test_other_separators_in_quotes_or_in_rows_do_not_count() -> None:
    rows = rows_of('"video_path","label;x|y","label","group"\na;b;c;d.mp4,1,fake,g\n')

    assert (rows[0]["video_path"], rows[0]["label;x|y"]) == ("a;b;c;d.mp4", "1")


def test_white_space_around_the_names_of_columns_is_no_part_of_them() -> None:
    assert rows_of(" video_path , label,group \na.mp4,fake,g\n")[0]["group"] == "g"


def test_separators_at_the_end_of_lines_make_no_columns() -> None:
    assert rows_of(HEADER.replace("\n", ",,\n") + "a.mp4,fake,g,,\n") == rows_of(
        HEADER + "a.mp4,fake,g,\n"
    )


@needs_real
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_real_table_is_read_alike_in_all_forms(separator: str, encoding: str) -> None:
    content = (REAL / "fvc_metadata/FVC_dup.csv").read_bytes()
    columns = Columns(path="video_url", label="label", group="cascade_id")
    lines = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""))
    stream = io.StringIO()
    csv.writer(stream, delimiter=separator).writerows(lines)
    text = f"sep={separator}\r\n{stream.getvalue()}"

    rows = read(content, columns)
    assert rows.height == 5199
    assert read(text.encode(encoding), columns).equals(rows)


@pytest.mark.parametrize("name", ["nan", "NaN", "NA", "N/A", "null", "None", "<NA>", "#N/A"])
def test_a_group_named_by_a_word_for_no_value_is_refused_in_several_rows(name: str) -> None:
    assert rows_of(HEADER + f"a.mp4,fake,{name}\nb.mp4,real,g\n")[0]["group"] == name
    assert faults_of(HEADER + f"a.mp4,fake,{name}\nb.mp4,real,g\nc.mp4,real,{name} \n") == (
        f"group: expected the name of a group or an empty field, got '{name}' in 2 rows, which "
        "programs write for a missing value; leave the field empty for videos of no group, or give "
        "the group another name",
    )


def test_each_unknown_label_is_told_once_with_what_it_may_mean() -> None:
    rows = ["fight"] * 2 + ["nofight"] * 150 + ["Fight"] + ["calm"] * 3
    index = read((HEADER + "".join(f"{i}.mp4,{row},\n" for i, row in enumerate(rows))).encode())

    assert unknown_labels(index, ["fight", "noFight"]) == [
        "label 'nofight' (150 rows) is not in data.labels [fight, noFight]; did you mean noFight?",
        "label 'calm' (3 rows) is not in data.labels [fight, noFight]; add it there, or mend the "
        "rows",
        "label 'Fight' (1 row) is not in data.labels [fight, noFight]; did you mean fight?",
    ]


def test_every_row_with_too_many_fields_is_named() -> None:
    faults = faults_of(HEADER + "a.mp4,fake,g,1\nb.mp4,real,g\nc,d.mp4,real,g\n")

    assert faults == (
        "row 1: expected 3 fields, got 4; quote a field that holds a comma",
        "row 3: expected 3 fields, got 4; quote a field that holds a comma",
    )


@pytest.mark.parametrize("length", [1, 50_000])
def test_a_quotation_mark_left_open_is_named_with_its_line(length: int) -> None:
    (fault,) = faults_of(HEADER + "a.mp4,fake,g\n" + '"b.mp4,fake,g\n' + "c.mp4,real,g\n" * length)

    assert fault.startswith("line 3: expected quotation marks in pairs, got one without its second")


def test_marks_far_apart_around_half_a_field_do_not_crash() -> None:
    text = HEADER + 'a.mp4,fake,"' + "x" * 200_000 + '"y\n'

    assert faults_of(text) == (
        "line 2: expected a CSV table, got one that does not parse: field larger than field limit "
        "(131072); quote the whole field and write a mark inside it twice",
    )


@pytest.mark.parametrize("name", ["video_path", "label"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "byte order mark"])
def test_a_column_given_twice_is_refused(mark: str, name: str) -> None:
    assert faults_of(f"{mark}video_path,label,group,{name}\na.mp4,fake,g,real\n") == (
        f"expected every column once, got '{name}' more than once; remove or rename one",
    )


def test_blank_lines_are_no_rows_but_count_as_such() -> None:
    rows = rows_of(HEADER + "a.mp4,fake,g\n\nb.mp4,real,g\n")

    assert [row["row"] for row in rows] == [1, 3]


def test_rows_that_end_in_carriage_return_and_line_feed_read_alike() -> None:
    text = HEADER + "a.mp4,fake,g\n\nb.mp4,real,\n"

    assert rows_of(text.replace("\n", "\r\n")) == rows_of(text)


def test_a_row_with_too_few_fields_has_the_others_empty() -> None:
    assert rows_of(HEADER + "a.mp4,fake\n") == [
        {"row": 1, "video_path": "a.mp4", "label": "fake", "group": None}
    ]


def test_text_stays_text() -> None:
    rows = rows_of("video_path,label,group,note\n007,1,1e5,null\n")

    assert rows == [{"row": 1, "video_path": "007", "label": "1", "group": "1e5", "note": "null"}]


def test_a_column_with_a_reserved_name_is_kept_under_another() -> None:
    rows = rows_of("video_path,label,group,split,color\na.mp4,fake,g,train,red\n")

    assert (rows[0]["csv_split"], rows[0]["color"]) == ("train", "red")
    assert "split" not in rows[0]


def test_two_columns_that_would_get_one_name_are_refused() -> None:
    assert faults_of("video_path,label,group,split,csv_split\na.mp4,fake,g,train,1\n") == (
        "expected no column 'csv_split' beside 'split', which is kept under that name; rename one "
        "of them",
    )


def test_every_fact_of_a_video_has_a_reserved_name() -> None:
    facts = {field.name for field in dataclasses.fields(VideoFacts)}

    assert facts <= RESERVED


# --- the rows ----------------------------------------------------------------------------------


def test_good_rows_are_kept_as_they_are(tmp_path: Path) -> None:
    kept, reasons = checked(tmp_path, "a.mp4,fake,g", "sub/b.mp4,real,", files="a.mp4 sub/b.mp4")

    assert (kept, reasons) == ([1, 2], {})


def test_a_missing_file_costs_its_row(tmp_path: Path) -> None:
    kept, reasons = checked(tmp_path, "a.mp4,fake,g", "b.mp4,real,g", files="a.mp4")

    assert kept == [1]
    assert reasons == {
        2: f"missing: video_path 'b.mp4' not found under {tmp_path}; put the file there or drop "
        "the row"
    }


def test_an_unknown_label_costs_its_row(tmp_path: Path) -> None:
    kept, reasons = checked(tmp_path, "a.mp4,Fake,g", files="a.mp4")

    assert kept == []
    assert reasons == {1: "invalid: label: expected one of fake, real, got 'Fake'"}


def test_all_faults_of_a_row_are_told_in_one_reason(tmp_path: Path) -> None:
    _, reasons = checked(tmp_path, "a.mp4,,g", "a.mp4,,g")

    assert reasons[2] == (
        f"missing: video_path 'a.mp4' not found under {tmp_path}; put the file there or drop the "
        "row; label: expected one of fake, real, got ''; row 1 names the same file"
    )


@pytest.mark.parametrize(
    "video_path", ["../x.mp4", "/etc/hostname", "a/../../x.mp4", "a/../x.mp4", ".."]
)
def test_a_path_that_may_lead_out_of_the_root_is_refused(tmp_path: Path, video_path: str) -> None:
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    for path in (tmp_path / "x.mp4", root / "x.mp4"):
        path.touch()

    _, reasons = checked(root, f"{video_path},fake,g")

    told = f"invalid: video_path '{video_path}' leaves {root}; give a path below it, without '..'"
    meant = ", or write 'x.mp4', which is there" if "x.mp4" in video_path else ""
    assert reasons == {1: told + meant}


@pytest.mark.parametrize(
    ("written", "file"),
    [
        (" a.mp4 ", "a.mp4"),
        ("a.mp4\u00a0", "a.mp4"),
        ("cafe\u0301.mp4", "caf\u00e9.mp4"),
        ("caf\u00e9.mp4", "cafe\u0301.mp4"),
        (" b.mp4", " b.mp4"),
        ("{root}/sub/a.mp4", "sub/a.mp4"),
    ],
)
def test_a_path_is_taken_as_the_file_is_spelled(tmp_path: Path, written: str, file: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.touch()
    content = f'{HEADER}"{written.format(root=tmp_path)}",fake,g\n'
    index = settle_paths(read(content.encode()), tmp_path)

    assert check_rows(index, tmp_path, LABELS)[0]["video_path"].to_list() == [file]


def test_two_spellings_of_one_file_are_one_file(tmp_path: Path) -> None:
    name = "caf\u00e9.mp4"
    _, reasons = checked(tmp_path, f"{name},fake,g", "cafe\u0301.mp4 ,real,g", files=name)

    assert [reason.partition(":")[0] for reason in reasons.values()] == ["contradiction"] * 2


@pytest.mark.parametrize(
    ("written", "file"),
    [
        ("Sub/A.MP4", "sub/a.mp4"),
        ("sub\\a.mp4", "sub/a.mp4"),
        ("sub/a", "sub/a.mp4"),
        ("sub/a.avi", "sub/a.mp4"),
        ("data/mine/sub/a.mp4", "sub/a.mp4"),
        ("C:\\videos\\sub\\a.mp4", "sub/a.mp4"),
        ("a.mp4", "sub/a.mp4"),
        ("sub/a  b.mp4", "sub/a b.mp4"),
    ],
)
def test_a_file_that_is_spelled_otherwise_is_named(tmp_path: Path, written: str, file: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / file).touch()
    (tmp_path / "sub/other.mp4").touch()
    _, reasons = checked(tmp_path, f"{written},fake,g", "nothing.mp4,fake,g")

    assert reasons[1].endswith(f"drop the row, or write '{file}', which is there")
    assert reasons[2].endswith("drop the row")


def test_of_two_files_that_may_be_meant_none_is_named(tmp_path: Path) -> None:
    _, reasons = checked(tmp_path, "a,fake,g", files="a.mp4 a.avi")

    assert reasons[1].endswith("drop the row")


def test_a_file_that_thousands_of_rows_name_makes_no_endless_reasons(tmp_path: Path) -> None:
    labels = ("fake", "real")
    _, reasons = checked(
        tmp_path, *(f"a.mp4,{labels[number % 2]},g" for number in range(3000)), files="a.mp4"
    )

    assert reasons[3] == (
        "contradiction: the label differs from row 1, 2, 4, 5, 6 and 2994 more of the same file"
    )
    assert max(map(len, reasons.values())) < 100


def test_a_link_below_the_root_may_lead_elsewhere(tmp_path: Path) -> None:
    disk, root = tmp_path / "disk", tmp_path / "root"
    disk.mkdir()
    root.mkdir()
    (disk / "a.mp4").touch()
    (root / "mine").symlink_to(disk)

    assert checked(root, "mine/a.mp4,fake,g") == ([1], {})


def test_a_directory_is_no_video(tmp_path: Path) -> None:
    _, reasons = checked(tmp_path, "sub,fake,g", files="sub/a.mp4")

    assert reasons == {1: "invalid: video_path 'sub' is no file; name the video itself"}


def test_an_empty_path_costs_its_row(tmp_path: Path) -> None:
    _, reasons = checked(tmp_path, ",fake,g", ",fake,g")

    assert reasons == dict.fromkeys((1, 2), "invalid: video_path is empty")


@pytest.mark.parametrize("video_path", ["x" * 5000, "a\0b.mp4", "loop"])
def test_a_path_that_no_system_can_open_costs_its_row(tmp_path: Path, video_path: str) -> None:
    (tmp_path / "loop").symlink_to("loop")

    kept, reasons = checked(tmp_path, f"{video_path},fake,g", "a.mp4,real,g", files="a.mp4")

    assert (kept, list(reasons)) == ([2], [1])


def test_of_rows_that_say_the_same_of_a_file_the_first_stays(tmp_path: Path) -> None:
    kept, reasons = checked(
        tmp_path, "a.mp4,fake,g", "b.mp4,real,g", "a.mp4,fake,g", files="a.mp4 b.mp4"
    )

    assert kept == [1, 2]
    assert reasons == {3: "duplicate: row 1 names the same file"}


@pytest.mark.parametrize("other", ["a.mp4,fake,h", "a.mp4,fake,"])
def test_of_rows_that_differ_in_their_group_the_first_stays(tmp_path: Path, other: str) -> None:
    kept, reasons = checked(tmp_path, "a.mp4,fake,g", other, files="a.mp4")

    assert (kept, reasons) == ([1], {2: "duplicate: row 1 names the same file"})


@pytest.mark.parametrize("other", ["a.mp4,real,g", "a.mp4,real,h"])
def test_of_rows_that_contradict_each_other_none_stays(tmp_path: Path, other: str) -> None:
    kept, reasons = checked(tmp_path, "a.mp4,fake,g", "b.mp4,real,g", other, files="a.mp4 b.mp4")

    assert kept == [2]
    assert reasons == {
        1: "contradiction: the label differs from row 3 of the same file",
        3: "contradiction: the label differs from row 1 of the same file",
    }


@pytest.mark.parametrize("spelling", ["./a.mp4", "sub/.//../a.mp4", "sub//b.mp4", "./sub/./b.mp4"])
def test_another_spelling_of_a_path_does_not_hide_a_contradiction(
    tmp_path: Path, spelling: str
) -> None:
    name = "sub/b.mp4" if "b.mp4" in spelling else "a.mp4"

    kept, _ = checked(tmp_path, f"{name},fake,g", f"{spelling},real,g", files="a.mp4 sub/b.mp4")

    assert kept == ([1] if ".." in spelling else [])


# --- real tables -------------------------------------------------------------------------------


@needs_real
def test_every_row_of_the_surveillance_clips_is_usable() -> None:
    table = read((REAL / "scfd" / "index.csv").read_bytes())

    usable, rejections = check_rows(table, REAL / "scfd", table["label"].unique().to_list())

    assert (usable.height, rejections) == (300, [])
    assert usable.schema["row"] == pl.Int64


# --- a given split -----------------------------------------------------------------------------

WITH_SPLIT = dataclasses.replace(COLUMNS, split="split")


def test_a_column_that_gives_the_split_is_read_as_train_val_and_test() -> None:
    names = ["Train", "training", " val", "Validation", "valid", "TEST", "testing"]
    rows = "".join(f"{i}.mp4,real,,{name}\n" for i, name in enumerate(names))

    index = read(f"video_path,label,group,split\n{rows}".encode(), WITH_SPLIT)

    assert index["given_split"].to_list() == [
        *("train", "train", "val", "val", "val", "test", "test")
    ]
    assert "csv_split" in rows_of("video_path,label,group,split\na,real,,x\n")[0]


def test_other_words_for_a_part_are_told_once_each_with_the_first_row() -> None:
    rows = "a,real,,train\nb,real,,holdout\nc,real,,\nd,real,,holdout\ne,real,,test\n"

    assert faults_of(f"video_path,label,group,split\n{rows}", WITH_SPLIT) == tuple(
        f"split: expected train, val or test in each row, got '{word}' in {count} of them, the "
        f"first of which is row {row}; mend them, or leave data.split_column empty: the pipeline "
        "then splits by itself"
        for word, count, row in (("holdout", 2, 2), ("", 1, 3))
    )


def test_a_given_split_without_test_videos_is_refused() -> None:
    rows = "a,real,,train\nb,real,,val\n"

    assert faults_of(f"video_path,label,group,split\n{rows}", WITH_SPLIT) == (
        "split: expected rows of train and of test, got none of test; val may be missing, for "
        "folds of train can validate",
    )


def test_a_file_in_two_parts_is_a_contradiction(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    rows = "a,real,,train\n./a,real,,test\nb,real,,test\n"
    index = read(f"video_path,label,group,split\n{rows}".encode(), WITH_SPLIT)

    _, rejections = check_rows(index, tmp_path, LABELS)

    assert [(item.row, item.verdict) for item in rejections[:2]] == [
        (1, "contradiction"),
        (2, "contradiction"),
    ]
    assert rejections[0].reason == "the split differs from row 2 of the same file"
