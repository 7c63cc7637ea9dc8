import pytest
from repository import ROOT

from ptqflow.core.errors import ParamsError
from ptqflow.sweep.grid import parse_grid

PARAMS = ROOT / "params.yaml"


def overrides(*expressions: str) -> list[list[str]]:
    grid = parse_grid(expressions, PARAMS)
    return [[setting.override for setting in combination] for combination in grid.combinations]


def test_a_grid_has_every_combination_in_the_order_of_the_values() -> None:
    assert overrides("calib.batches=1,5", "convert.activation.method=mse,minmax") == [
        ["calib.batches=1", "convert.activation.method=mse"],
        ["calib.batches=1", "convert.activation.method=minmax"],
        ["calib.batches=5", "convert.activation.method=mse"],
        ["calib.batches=5", "convert.activation.method=minmax"],
    ]


def test_lists_ranges_quotes_and_null_are_those_of_dvcs_own_grammar() -> None:
    assert overrides("convert.keep_fp32=[add,'layer4.*'],[]") == [
        ["convert.keep_fp32=[add,'layer4.*']"],
        ["convert.keep_fp32=[]"],
    ]
    assert overrides("data.limit=null,100") == [["data.limit=null"], ["data.limit=100"]]
    assert overrides("calib.batches=range(1,4)") == [[f"calib.batches={count}"] for count in (1, 2, 3)]
    assert overrides("data.name=image_folder", "data.path='a, b',c") == [
        ["data.name=image_folder", "data.path='a, b'"],
        ["data.name=image_folder", "data.path=c"],
    ]


def test_a_value_that_occurs_twice_is_one_experiment() -> None:
    assert overrides("calib.batches=1,1") == [["calib.batches=1"]]


def test_keys_with_one_value_are_not_swept() -> None:
    grid = parse_grid(["calib.batches=1,5", "calib.seed=3"], PARAMS)
    assert grid.swept == {"calib.batches"}
    assert len(grid.combinations) == 2


@pytest.mark.parametrize(
    ("expressions", "message"),
    [
        (["calib.batches"], "-S 'calib.batches' is no grid (Error parsing override 'calib.batches'): write KEY=VALUE"),
        (["model.mean=[1,2"], "-S 'model.mean=[1,2' is no grid (no viable alternative at input '[1,2'): write KEY="),
        (["calib.seed=interval(0,1)"], "is no grid (BasicSweeper does not support sweep type : INTERVAL_SWEEP): write"),
        (["calib.batches=glob(*)"], "-S 'calib.batches=glob(*)' is no grid"),
        (["=1,2"], "-S '=1,2' does not set a key: write KEY=VALUE,VALUE"),
        (["+calib.new=1,2"], "-S '+calib.new=1,2' does not set a key"),
        (["~calib.batches"], "-S '~calib.batches' does not set a key"),
        (["other.yaml:calib.batches=1,2"], "sets a key of other.yaml; a sweep sets keys of params.yaml alone"),
        (["calib.seed=1", "calib.seed=2"], "-S sets calib.seed twice; write its values in one expression: calib.seed="),
        (["calib.batchs=1,2"], "-S: unknown key calib.batchs; did you mean batches?"),
        (["convert.activation.new=mse"], "-S: unknown key convert.activation.new; "),
        (["cali.batches=1,2"], "has no section cali; did you mean calib?"),
        (["xyz.batches=1,2"], "has no section xyz; it has data, model, train, "),
        (["calib.batches=5,0"], "-S: calib.batches is 0: input should be greater than 0"),
        (["calib.batches=1 2"], "-S: calib.batches is '1 2': input should be a valid integer"),
        (["convert.activation.method=mse,minmix"], "-S: convert.activation.method is 'minmix': "),
    ],
)
def test_what_is_no_grid_is_one_line_with_the_remedy(expressions: list[str], message: str) -> None:
    with pytest.raises(ParamsError) as caught:
        parse_grid(expressions, PARAMS)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
