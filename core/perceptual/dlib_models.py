"""dlib and its model files, both optional: pip install 'splatmend[faces]'.

King 2009, "Dlib-ml". The models are 68 landmarks by regression trees (Kazemi & Sullivan 2014)
and an embedding of 128 numbers, from the package face-recognition-models. The files are CC0.
The landmarks were trained on iBUG 300-W, whose own terms exclude commercial use.
"""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from splatmend.core.errors import ModelError

__all__ = ["EMBEDDING_FILE", "LANDMARKS_FILE", "load_dlib"]

LANDMARKS_FILE = "shape_predictor_68_face_landmarks.dat"
EMBEDDING_FILE = "dlib_face_recognition_resnet_model_v1.dat"


def load_dlib() -> tuple[Any, Path]:
    """Import dlib and return it with the folder of the models.

    Raises:
        ModelError: one of the two packages is not installed.
    """
    # only the files: the package itself imports pkg_resources, which new setuptools lack
    package = find_spec("face_recognition_models")
    if package is None or not package.submodule_search_locations or find_spec("dlib") is None:
        raise ModelError(
            "faces need dlib and its models: pip install dlib-bin face-recognition-models"
        )
    return import_module("dlib"), Path(package.submodule_search_locations[0]) / "models"
