"""The model of every section of params.yaml."""

from ptqflow.benchmark.params import BenchmarkParams
from ptqflow.calib.params import CalibParams
from ptqflow.convert.params import ConvertParams, SensitivityParams
from ptqflow.core.params import Params
from ptqflow.core.run_params import RunParams
from ptqflow.export.params import ExportParams
from ptqflow.fetch.params import DataParams
from ptqflow.models.params import ModelParams
from ptqflow.spread.params import CalibSpreadParams
from ptqflow.train.params import TrainParams

SECTIONS: dict[str, type[Params]] = {
    "data": DataParams,
    "model": ModelParams,
    "train": TrainParams,
    "calib": CalibParams,
    "convert": ConvertParams,
    "sensitivity": SensitivityParams,
    "export": ExportParams,
    "calib_spread": CalibSpreadParams,
    "benchmark": BenchmarkParams,
    "run": RunParams,
}
