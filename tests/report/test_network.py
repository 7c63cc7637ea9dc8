import dataclasses

import pytest
from finished_run import budget_of, write_run
from svg import texts

from ptqflow.core.figures import OBSERVED_RANGES, QUANTIZED_RANGES, SENSITIVITY, EpochRow, ObservedRange
from ptqflow.report.network import layers, training, worst_layers
from ptqflow.report.results import read_results


def epoch(number: int, val_top1: float) -> EpochRow:
    return EpochRow(epoch=number, train_loss=2 / number, train_top1=0.5, val_loss=2.5 / number, val_top1=val_top1)


def test_training_is_described_by_its_end_and_by_the_first_of_the_best_epochs() -> None:
    section = training([epoch(1, 0.25), epoch(2, 0.8125), epoch(3, 0.8125), epoch(4, 0.75)])

    loss, top1 = section["training"]
    assert (loss.title, top1.title) == ("Loss", "Top-1")
    assert loss.description == "Cross-entropy in nats over 4 epochs; on val it ends at 0.625."
    assert top1.description == "Top-1 on val ends at 75.00 %; its best, 81.25 %, is after epoch 2."
    assert section["untrained"] == ""


def test_both_curves_have_a_line_for_train_and_one_for_val() -> None:
    loss, top1 = training([epoch(1, 0.25), epoch(2, 0.8125)])["training"]
    assert {"train", "val", "cross-entropy"} <= set(texts(loss.drawing))
    assert {"train", "val", "top-1 %", "80"} <= set(texts(top1.drawing))  # its axis is in percent


def test_the_table_has_all_figures_of_every_epoch() -> None:
    table = training([epoch(1, 0.25), epoch(2, 0.8125)])["epochs"]
    assert table.columns == ["epoch", "loss, train", "loss, val", "top-1, train", "top-1, val"]
    assert table.rows == [
        ["1", "2.0000", "2.5000", "0.5000", "0.2500"],
        ["2", "1.0000", "1.2500", "0.5000", "0.8125"],
    ]


def test_a_long_training_is_drawn_whole_and_its_table_names_the_file() -> None:
    section = training([epoch(i, 0.5) for i in range(1, 402)])
    assert "over 401 epochs" in section["training"][0].description
    assert section["epochs"].note == "The first 400 of 401 rows; all are in metrics/plots/train.csv."


def test_a_network_that_was_not_trained_has_a_sentence_in_place_of_curves() -> None:
    section = training([EpochRow(epoch=0, val_loss=0.5, val_top1=0.75)])
    assert section == {
        "training": [],
        "epochs": None,
        "untrained": "None: the weights given are unchanged. Their top-1 on val is 75.00 %.",
    }


def test_layers_are_counted_by_precision() -> None:
    write_run(modules={"conv1": 21.5, "fc": 48.0})
    assert layers(read_results())["layers"] == "2 layers run on INT8, 1 on FP32."


def test_the_three_layers_that_cost_most_have_what_keeping_them_fp32_recovers() -> None:
    write_run(modules={"fc": 48.04, "conv1": 21.5, "layer1": 33.0, "layer2": 60.0})
    table = worst_layers(read_results())["worst"]
    assert table.columns == ["layer", "FP32 recovers, points", "SQNR alone, dB", "SQNR in the network, dB"]
    assert table.rows == [
        ["conv1", "+1.00", "21.5", "21.5"],
        ["layer1", "+1.00", "33.0", "33.0"],
        ["fc", "+1.00", "48.0", "48.0"],
    ]
    assert table.note.startswith("Kept FP32, a layer recovers about the top-1 on val that it costs alone")
    assert table.note.endswith("`dvc exp run -S 'convert.keep_fp32=[conv1]'` keeps the first.")


def test_layers_that_cost_nothing_alone_recover_nothing_and_those_kept_stay_kept() -> None:
    write_run()
    SENSITIVITY.write([row.model_copy(update={"drop": -0.01}) for row in SENSITIVITY.read()])
    results = read_results()
    params = {"convert": {"keep_fp32": ["layer9", "add"]}}
    results = dataclasses.replace(results, manifest=results.manifest.model_copy(update={"params": params}))
    table = worst_layers(results)["worst"]
    assert {row[1] for row in table.rows} == {"0.00"}
    assert table.note.startswith("Alone, none of them costs top-1 on val")
    assert "'convert.keep_fp32=[layer9, add, conv1]'" in table.note


def test_a_network_without_int8_layers_has_no_worst_ones() -> None:
    write_run(modules={})
    assert worst_layers(read_results()) == {"worst": None}


def test_modules_of_the_same_drop_come_by_their_sqnr() -> None:
    write_run(modules={"fc": 48.04, "conv1": 21.5, "layer1": None})
    section = layers(read_results())

    assert section["sensitivity"].rows == [
        ["conv1", "21.5", "0.99900", "+1.00", "21.5", "0.99000"],
        ["fc", "48.0", "0.99900", "+1.00", "48.0", "0.99000"],
        ["layer1", "-", "0.99900", "+1.00", "-", "0.99000"],
    ]
    chart = section["layer_charts"][0]
    assert chart.title == "Sensitivity"
    assert "conv1 has the lowest SQNR of 2 modules. " in chart.description
    assert [text for text in texts(chart.drawing) if text in ("conv1", "fc", "layer1")] == ["conv1", "fc"]
    assert texts(chart.drawing).count("+1.00") == 2


def test_the_chart_has_the_forty_modules_of_the_lowest_sqnr() -> None:
    write_run(modules={f"layer{i}": float(i) for i in reversed(range(41))})
    chart = layers(read_results())["layer_charts"][0]
    assert "layer0 has the lowest SQNR of 41 modules, of which the first 40 are shown. " in chart.description
    assert [text for text in texts(chart.drawing) if text.startswith("layer")] == [f"layer{i}" for i in range(40)]


@pytest.mark.parametrize("modules", [{"fc": None}, {}], ids=["equal logits", "none"])
def test_without_a_measured_module_there_is_no_chart_of_them(modules: dict[str, float | None]) -> None:
    write_run(modules=modules)
    section = layers(read_results())
    assert [chart.title for chart in section["layer_charts"]] == ["Activation ranges"]
    assert [row[0] for row in section["sensitivity"].rows] == list(modules)


def test_ranges_are_those_that_the_levels_cover_beside_the_observed_values() -> None:
    # -1 to 4.5 has 255 steps of 5.5 / 255, the 46th of which is zero; of the values -3.5, 0, 1 and 70, 2 are outside.
    write_run(modules={"conv1": 21.5})
    section = layers(read_results())

    figures = ["-3.5000", "70.0000", f"{-46 * 5.5 / 255:.4f}", f"{209 * 5.5 / 255:.4f}", "50.0000"]
    assert section["ranges"].columns == ["tensor", "smallest", "largest", "low", "high", "clipped %"]
    assert section["ranges"].rows == [["x", *figures], ["conv1", *figures]]
    chart = section["layer_charts"][1]
    assert chart.description.endswith("2 tensors in execution order.")
    assert [text for text in texts(chart.drawing) if text in ("x", "conv1")] == ["x", "conv1"]


def test_a_tensor_that_calibration_did_not_observe_has_dashes_and_its_bar() -> None:
    write_run(modules={"conv1": 21.5})
    OBSERVED_RANGES.write([ObservedRange(tensor="conv1", min=-3.5, max=70.0)])
    section = layers(read_results())

    assert [row[:3] for row in section["ranges"].rows] == [["x", "-", "-"], ["conv1", "-3.5000", "70.0000"]]
    assert "x" in texts(section["layer_charts"][1].drawing)


def test_the_chart_has_the_first_forty_tensors() -> None:
    write_run(modules={f"conv{i}": 1.0 for i in range(41)})
    chart = layers(read_results())["layer_charts"][1]
    assert chart.description.endswith("42 tensors in execution order, of which the first 40 are shown.")
    drawn = texts(chart.drawing)
    assert "conv38" in drawn
    assert "conv39" not in drawn


def test_a_network_without_quantized_tensors_has_no_chart_of_ranges() -> None:
    write_run(modules={"fc": 12.5})
    QUANTIZED_RANGES.write([])
    section = layers(read_results())
    assert [chart.title for chart in section["layer_charts"]] == ["Sensitivity"]
    assert section["ranges"].rows == []


def test_what_a_budget_keeps_is_named_with_all_that_was_tried() -> None:
    names = [f"layer{i}.conv" for i in range(12)]
    write_run(budget=budget_of("layer0.conv", (0, 21, ""), (12, -1, ", ".join(names)), (1, 4, "layer0.conv")))
    section = layers(read_results())

    assert section["budget"] == (
        "To lose at most 0.5 points of top-1 on val (convert.max_drop), these modules stay FP32: layer0.conv."
    )
    assert section["trail"].rows == [
        ["0", "+2.10", "-"],
        ["12", "-0.10", ", ".join(names[:10]) + " and 2 more"],
        ["1", "+0.40", "layer0.conv"],
    ]


def test_a_budget_that_was_met_at_once_keeps_nothing() -> None:
    write_run(budget=budget_of("", (0, 0, "")))
    section = layers(read_results())
    assert section["budget"].endswith("(convert.max_drop), no module has to stay FP32.")
    assert section["trail"].rows == [["0", "0.00", "-"]]


def test_without_a_budget_nothing_is_said_of_one() -> None:
    write_run()
    section = layers(read_results())
    assert section["budget"] == ""
    assert section["trail"] is None
