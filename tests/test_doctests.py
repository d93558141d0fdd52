"""The examples in the docstrings of the most used names run and give the printed results."""

import doctest
from importlib import import_module

import pytest


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("core.frame", {"Frame"}),
        ("core.pixels", {"from_tensor", "to_tensor"}),
        ("core.references", {""}),  # Guide and Reference, in the docstring of the package
        ("core.references.collection", {"References"}),
        ("core.references.reading", {"read_references"}),
        ("core.restore.frames", {"RestoreOptions", "restore_frames"}),
        ("core.restore.registry", {"load_restorer"}),
        ("temporal.stream", {"Stream"}),
        ("training.data.portraits", {"load_portraits"}),
        ("training.degradations.recipes", {"degrade"}),
        ("training.degradations.resplatting", {"resplat"}),
        ("training.gaussians.ply", {"read_ply"}),
        ("training.gaussians.rasterizer", {"render"}),
    ],
)
def test_examples_in_docstrings(module, names):
    path = f"splatmend.{module}"
    examples = [test for test in doctest.DocTestFinder().find(import_module(path)) if test.examples]
    assert {test.name.removeprefix(path).removeprefix(".") for test in examples} == names
    runner = doctest.DocTestRunner()
    for test in examples:
        output: list[str] = []
        assert not runner.run(test, out=output.append).failed, "".join(output)
