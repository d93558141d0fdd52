import torch
from torch import Tensor
from torch.nn import functional as F

from splatmend.training.shift import shift_loss


def lattice(rgb: Tensor) -> Tensor:
    """Prints a dot into every cell of 4 x 4 pixels."""
    printed = rgb.clone()
    printed[..., ::4, ::4] += 0.2
    return printed


def sharpen(rgb: Tensor) -> Tensor:
    """The same everywhere, whatever the phase."""
    return rgb + 0.5 * (rgb - F.avg_pool2d(F.pad(rgb, (1, 1, 1, 1), "replicate"), 3, 1))


def test_what_is_locked_to_a_grid_costs_and_what_moves_along_does_not() -> None:
    rgb = torch.rand(2, 3, 128, 96)
    for seed in range(4):
        assert shift_loss(sharpen, rgb, seed=seed) < 1e-6
    costs = torch.stack([shift_loss(lattice, rgb, seed=seed) for seed in range(24)])
    assert (costs > 0.01).sum() > 20  # shifts by whole cells see nothing
    assert shift_loss(lattice, rgb, seed=3) == shift_loss(lattice, rgb, seed=3)


def test_its_gradient_takes_the_lattice_away() -> None:
    rgb = torch.rand(1, 3, 64, 64)
    pattern = torch.zeros(4, 4)
    pattern[0, 0] = 0.2
    pattern.requires_grad_()
    before = pattern.detach().std()

    def printed(picture: Tensor) -> Tensor:
        return picture + pattern.repeat(picture.shape[2] // 4, picture.shape[3] // 4)

    for seed in range(60):
        (gradient,) = torch.autograd.grad(shift_loss(printed, rgb, seed=seed), pattern)
        with torch.no_grad():
            pattern.sub_(0.05 * gradient)
    assert pattern.detach().std() < 0.5 * before
