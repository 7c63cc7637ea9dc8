from ptqflow.core.text_table import format_text_table


def test_columns_are_as_wide_as_their_longest_cell_and_two_spaces_apart() -> None:
    rows = [("layer", "scale", "note"), ("conv1", "0.5", ""), ("layer1.0.conv2", "12.25", "kept FP32")]

    assert format_text_table(rows, "<>").split("\n") == [
        "layer           scale  note",
        "conv1             0.5",
        "layer1.0.conv2  12.25  kept FP32",
    ]


def test_without_an_alignment_all_columns_are_left_aligned() -> None:
    assert format_text_table([("a", "1"), ("bb", "22")]) == "a   1\nbb  22"


def test_a_table_without_rows_is_empty() -> None:
    assert format_text_table([]) == ""
