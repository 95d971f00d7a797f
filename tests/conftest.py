import os

for threads in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):  # two files are tested side by side, kernels included
    os.environ.setdefault(threads, "1")

import numpy as np
import pytest
from hypothesis import settings

from fedlearn_mini import data, models

settings.register_profile("kit", deadline=None)  # a busy machine is no fault of the code
settings.load_profile("kit")

MODELS = {
    "linear": models.linear(5),
    "logistic": models.logistic(5),
    "mlp": models.mlp(5, hidden=(6, 4)),
    "mlp of one layer": models.mlp(5, hidden=()),
}


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def hospitals(rng):
    """Four hospitals of very different sizes, five features."""
    return data.make_hospitals(4, 30, d=5, skew=1.0, difference=0.5, rng=rng)


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]


def as_type(hospitals, dtype):
    return hospitals._replace(X=hospitals.X.astype(dtype), y=hospitals.y.astype(dtype), w=hospitals.w.astype(dtype))
