import numpy as np

from ptqflow.compare import Comparison
from ptqflow.evaluate.predictions import Prediction


def test_a_p_value_is_a_number_in_its_column() -> None:
    labels = np.repeat([0, 1, 2], [20, 20, 1])
    right = np.full(41, 0.5, dtype=np.float32)
    lost = labels.copy()
    lost[:13] = 1  # all but 7 of the first class
    lost[20] = 0
    models = (Prediction(labels, right, right), Prediction(lost, right, right))

    table = Comparison(("A", "B"), ("ant", "bee", "cat"), labels, models).as_text().split("\n\n")[1]

    assert table.splitlines() == [
        "class  images   drop  only A  only B  p (Holm)",
        "ant        20  65.00      13       0   < 0.001",
        "bee        20   5.00       1       0         1",
    ]
