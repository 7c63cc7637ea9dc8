"""The names of the network's classes, for images without labels."""

from ptqflow.core.errors import ModelError, ParamsError
from ptqflow.core.inputs import WEIGHTS, given
from ptqflow.core.preprocessing import Preprocessing
from ptqflow.fetch.params import DataParams
from ptqflow.models.class_names import ClassNames, find_class_names
from ptqflow.models.params import ModelParams


def resolve_class_names(data: DataParams, model: ModelParams, preprocessing: Preprocessing) -> ClassNames:
    """Return the names where the images have no labels, none where they are those of the data set.

    `model.weights` must have been linked.

    Raises:
        ModelError: as `find_class_names`, or `model.weights` is null.
        ParamsError: `model.classes` is set while the images have labels.
    """
    if data.name != "photos":
        if model.classes:
            raise ParamsError(
                f"model.classes is {model.classes}, and the classes are those of data.name={data.name}; set it to null"
            )
        return ClassNames()
    weights = given(WEIGHTS)
    if weights is None:
        raise ModelError(
            "model.weights is null, and data.name=photos has no labels to train with; set it to the trained weights, "
            "and train.epochs to 0"
        )
    return ClassNames(names=find_class_names(model, weights, preprocessing.input_shape))
