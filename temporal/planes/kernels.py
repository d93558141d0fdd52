"""The loops of operations.py: each goes once over rows `first` to `last` of whole planes.

Pixels of half and quarter planes are the means of cells of 2 x 2 and 4 x 4; cells at the border may
have fewer. A half plane is enlarged bilinearly where it meets a whole one. Beyond the border the
last pixels go on.
`first` is a multiple of 4 (see `in_bands`), and `last` too but for the last band.
"""

import numpy as np
from numpy.typing import NDArray

from splatmend.temporal.planes.numba_support import Picture, Plane, Planes, compiled

__all__ = [
    "aim_cells_rows",
    "aim_rows",
    "brighten_rows",
    "clip_mix_rows",
    "difference_rows",
    "finest_rows",
    "flicker_rows",
    "mix_rows",
    "raise_bands_rows",
    "raise_fine_rows",
    "rest_rows",
    "revise_rows",
    "split_rows",
]

Row = NDArray[np.float32]

_ZERO, _ONE, _TWO = np.float32(0), np.float32(1), np.float32(2)
_HALF, _QUARTER, _SIXTEENTH = np.float32(1 / 2), np.float32(1 / 4), np.float32(1 / 16)
_EIGHTH, _NINTH, _THREE = np.float32(1 / 8), np.float32(1 / 9), np.float32(3)
_FAR = np.float32(1e6)  # pixels: beyond every picture, and still an integer of 32 bits
_STEEP = np.float32(6)
_RED, _GREEN, _BLUE = np.float32(0.299), np.float32(0.587), np.float32(0.114)  # BT.601's
_CR, _CB = np.float32(0.713), np.float32(0.564)
_R_OF_CR, _B_OF_CB = np.float32(1.403), np.float32(1.773)
_G_OF_CR, _G_OF_CB = np.float32(-0.714), np.float32(-0.344)


@compiled
def _halve(top: Row, bottom: Row, out: Row) -> None:
    """Average cells of 2 x 2: two rows (w,) -> one row (w / 2,)."""
    width = top.shape[0]
    for x in range(width // 2):
        out[x] = _QUARTER * (top[2 * x] + top[2 * x + 1] + bottom[2 * x] + bottom[2 * x + 1])
    if width % 2:
        out[width // 2] = _HALF * (top[width - 1] + bottom[width - 1])


@compiled
def _enlarge(half: Plane, y: int, out: Row) -> None:
    """Compute row y, (w,), of a half plane at twice its size."""
    middle = y // 2
    other = min(middle + 1, half.shape[0] - 1) if y % 2 else max(middle - 1, 0)
    near, far = half[middle], half[other]
    count, width = near.shape[0], out.shape[0]
    for x in range(count - 1):
        left, right = _THREE * near[x] + far[x], _THREE * near[x + 1] + far[x + 1]
        out[2 * x + 1] = _SIXTEENTH * (_THREE * left + right)
        out[2 * x + 2] = _SIXTEENTH * (left + _THREE * right)
    out[0] = _QUARTER * (_THREE * near[0] + far[0])
    if width % 2 == 0:
        out[width - 1] = _QUARTER * (_THREE * near[count - 1] + far[count - 1])


@compiled
def _box(plane: Plane, y: int, sums: Row, out: Row) -> None:
    """Average 3 x 3 pixels around row y; `sums` is scratch, both (w,)."""
    up, row, down = plane[max(y - 1, 0)], plane[y], plane[min(y + 1, plane.shape[0] - 1)]
    width = row.shape[0]
    for x in range(width):
        sums[x] = up[x] + row[x] + down[x]
    left, middle, right, inner = sums[: width - 2], sums[1 : width - 1], sums[2:], out[1:]
    for x in range(width - 2):
        inner[x] = _NINTH * (left[x] + middle[x] + right[x])
    for x in (0, width - 1):
        out[x] = _NINTH * (sums[max(x - 1, 0)] + sums[x] + sums[min(x + 1, width - 1)])


@compiled
def _range(plane: Plane, y: int, ends: Planes, low: Row, high: Row) -> None:
    """Find the darkest and brightest of 3 x 3 pixels around row y; `ends` is scratch, (2, w)."""
    up, row, down = plane[max(y - 1, 0)], plane[y], plane[min(y + 1, plane.shape[0] - 1)]
    width, least, most = row.shape[0], ends[0], ends[1]
    for x in range(width):
        least[x] = min(min(up[x], row[x]), down[x])
        most[x] = max(max(up[x], row[x]), down[x])
    for x in (0, width - 1):
        before, after = max(x - 1, 0), min(x + 1, width - 1)
        low[x] = min(min(least[before], least[x]), least[after])
        high[x] = max(max(most[before], most[x]), most[after])
    low, high = low[1:], high[1:]
    before_low, after_low, before_high, after_high = least[: width - 2], least[2:], most, most[2:]
    least, most = least[1 : width - 1], most[1 : width - 1]
    for x in range(width - 2):
        low[x] = min(min(before_low[x], least[x]), after_low[x])
        high[x] = max(max(before_high[x], most[x]), after_high[x])


@compiled
def aim_rows(first: int, last: int, motion: Plane, source: Plane) -> None:
    """Convert backward motion (h, w, 2) to source positions, x first; see `aim`."""
    width = motion.shape[1]
    for y in range(first, last):
        steps, aims, down = motion[y], source[y], np.float32(y)
        for x in range(width):
            across, along = steps[x, 0], steps[x, 1]
            aims[x, 0] = np.float32(x) + across if abs(across) < _FAR else -_FAR
            aims[x, 1] = down + along if abs(along) < _FAR else -_FAR


@compiled
def aim_cells_rows(first: int, last: int, source: Plane, coarse: Plane, between: Plane) -> None:
    """Convert positions to half planes, with the loss of sampling between pixels.

    `coarse` is (h / 2, w / 2, 2). The loss `between` (h / 2, w / 2) is 0 on a pixel and 1 from a
    fifth of a pixel off.
    """
    height, width = source.shape[:2]
    for y in range(first // 2, (last + 1) // 2):
        top, bottom = source[2 * y], source[min(2 * y + 1, height - 1)]
        aims, lost = coarse[y], between[y]
        for x in range(aims.shape[0]):
            left, right = 2 * x, min(2 * x + 1, width - 1)
            most = _ZERO
            for axis in range(2):
                total = top[left, axis] + top[right, axis] + bottom[left, axis]
                # pixel 0 of a half plane lies between pixels 0 and 1 of a whole one
                aim = _EIGHTH * (total + bottom[right, axis]) - _QUARTER
                aims[x, axis] = aim
                most = max(most, abs(aim - np.rint(aim)))
            lost[x] = min(_STEEP * most * (_ONE - most), _ONE)


@compiled
def brighten_rows(first: int, last: int, rgb: Picture, brightness: Plane, colors: Planes) -> None:
    """Split (h, w, 3) into brightness (h, w) and half planes (2, h / 2, w / 2) of Cr and Cb."""
    height, width = brightness.shape
    tints = np.empty((2, 2, width), np.float32)
    for y in range(first, last):
        pixels, bright = rgb[y].reshape(3 * width), brightness[y]
        reddish, bluish = tints[0, y % 2], tints[1, y % 2]
        for x in range(width):
            red, blue = pixels[3 * x], pixels[3 * x + 2]
            mean = _RED * red + _GREEN * pixels[3 * x + 1] + _BLUE * blue
            bright[x], reddish[x], bluish[x] = mean, _CR * (red - mean), _CB * (blue - mean)
        if y % 2 or y == height - 1:
            for tint in range(2):
                _halve(tints[tint, 0], tints[tint, y % 2], colors[tint, y // 2])


@compiled
def difference_rows(
    first: int, last: int, now: Plane, before: Plane, drift: Plane, change: Plane
) -> None:
    """Compute the difference of two planes, and its absolute value, as half planes."""
    height, width = now.shape
    signed, size = np.empty((2, width), np.float32), np.empty((2, width), np.float32)
    for y in range(first, last):
        a, b, plain, positive = now[y], before[y], signed[y % 2], size[y % 2]
        for x in range(width):
            plain[x] = a[x] - b[x]
            positive[x] = abs(plain[x])
        if y % 2 or y == height - 1:
            _halve(signed[0], plain, drift[y // 2])
            _halve(size[0], positive, change[y // 2])


@compiled
def flicker_rows(
    first: int, last: int, now: Plane, before: Plane, light: Plane, flicker: Plane
) -> None:
    """Compute |now - before - light| as a half plane; `light` is a half plane."""
    height, width = now.shape
    size, broad = np.empty((2, width), np.float32), np.empty(width, np.float32)
    for y in range(first, last):
        _enlarge(light, y, broad)
        a, b, row = now[y], before[y], size[y % 2]
        for x in range(width):
            row[x] = abs(a[x] - b[x] - broad[x])
        if y % 2 or y == height - 1:
            _halve(size[0], row, flicker[y // 2])


@compiled
def split_rows(first: int, last: int, plane: Plane, low: Plane, energies: Plane) -> None:
    """Compute the mean of 3 x 3 pixels, and the energies of the rest and of the mean.

    `energies` are two quarter planes (2, h / 4, w / 4) of mean squares.
    """
    height, width = plane.shape
    sums, squares = np.empty(width, np.float32), np.zeros((2, width), np.float32)
    for y in range(first, last):
        row, mean = plane[y], low[y]
        _box(plane, y, sums, mean)
        fine, coarse = squares[0], squares[1]
        for x in range(width):
            fine[x] += (row[x] - mean[x]) * (row[x] - mean[x])
            coarse[x] += mean[x] * mean[x]
        if y % 4 == 3 or y == height - 1:
            for band in range(2):
                _sum_cells(squares[band], y % 4 + 1, energies[band, y // 4])
            squares[:] = _ZERO


@compiled
def _sum_cells(sums: Row, rows: int, out: Row) -> None:
    """Average cells of 4 pixels: sums over some rows (w,) -> (w / 4,)."""
    width = sums.shape[0]
    share = _ONE / np.float32(4 * rows)
    for x in range(width // 4):
        out[x] = share * (sums[4 * x] + sums[4 * x + 1] + sums[4 * x + 2] + sums[4 * x + 3])
    rest = width % 4
    if rest:
        total = _ZERO
        for x in range(width - rest, width):
            total += sums[x]
        out[width // 4] = total / np.float32(rest * rows)


@compiled
def finest_rows(first: int, last: int, plane: Plane, low: Plane, finest: Plane) -> None:
    """Compute the strength of the finest detail as a half plane.

    `low` is from `split_rows`. The band is split twice, so that shading does not count.
    """
    height, width = plane.shape
    sums, lower, size = (
        np.empty(width, np.float32), np.empty(width, np.float32), np.empty((2, width), np.float32),
    )  # fmt: skip
    for y in range(first, last):
        _box(low, y, sums, lower)
        row, mean, strong = plane[y], low[y], size[y % 2]
        for x in range(width):
            strong[x] = abs(row[x] - _TWO * mean[x] + lower[x])
        if y % 2 or y == height - 1:
            _halve(size[0], strong, finest[y // 2])


@compiled
def clip_mix_rows(
    first: int, last: int, picture: Plane, moved: Plane, light: Plane, gain: Plane, out: Plane
) -> None:
    """Compute (1 - h) x + h clip(w + light), clipped to the range of x around each pixel.

    x is the picture, w its moved predecessor; light and the gain h are half planes. See
    antialiasing.py.
    """
    width = picture.shape[1]
    scratch = np.empty((6, width), np.float32)
    broad, share, low, high = scratch[0], scratch[1], scratch[2], scratch[3]
    for y in range(first, last):
        _enlarge(light, y, broad)
        _enlarge(gain, y, share)
        _range(picture, y, scratch[4:], low, high)
        now, past, row = picture[y], moved[y], out[y]
        for x in range(width):
            kept = min(max(past[x] + broad[x], low[x]), high[x])
            row[x] = now[x] + share[x] * (kept - now[x])


@compiled
def raise_fine_rows(first: int, last: int, plane: Plane, low: Plane, more: Plane) -> None:
    """Add `more` times (plane - low) to a plane, in place; `more` is a half plane."""
    width = plane.shape[1]
    factor = np.empty(width, np.float32)
    for y in range(first, last):
        _enlarge(more, y, factor)
        row, mean = plane[y], low[y]
        for x in range(width):
            row[x] += factor[x] * (row[x] - mean[x])


@compiled
def mix_rows(first: int, last: int, fresh: Plane, moved: Plane, gain: Plane, out: Plane) -> None:
    """Compute (1 - g) fresh + g moved; the gain g is a half plane."""
    width = fresh.shape[1]
    share = np.empty(width, np.float32)
    for y in range(first, last):
        _enlarge(gain, y, share)
        now, past, row = fresh[y], moved[y], out[y]
        for x in range(width):
            row[x] = now[x] + share[x] * (past[x] - now[x])


@compiled
def raise_bands_rows(
    first: int, last: int, mixed: Plane, low: Plane, more_fine: Plane, more_low: Plane
) -> None:
    """Strengthen both bands of a plane, `low` and the rest, in place, by two half planes."""
    width = mixed.shape[1]
    fine, coarse = np.empty(width, np.float32), np.empty(width, np.float32)
    for y in range(first, last):
        _enlarge(more_fine, y, fine)
        _enlarge(more_low, y, coarse)
        row, mean = mixed[y], low[y]
        for x in range(width):
            row[x] += fine[x] * (row[x] - mean[x]) + coarse[x] * mean[x]


@compiled
def rest_rows(
    first: int, last: int, motion: Plane, here: Plane, there: Plane, slow: np.float32
) -> None:
    """Stop motion (h, w, 2) slower than `slow`, in place, where `here` is not above `there`.

    Both are half planes; motion stops in cells of 2 x 2 pixels, by their mean.
    """
    for top in range(first, last, 2):
        pair, y = motion[top : top + 2], top // 2
        for x in range(here.shape[1]):
            if not here[y, x] <= there[y, x]:
                continue
            cell = pair[:, 2 * x : 2 * x + 2]
            across, down = _ZERO, _ZERO
            for row in range(cell.shape[0]):
                for column in range(cell.shape[1]):
                    across += cell[row, column, 0]
                    down += cell[row, column, 1]
            bound = slow * np.float32(cell.shape[0] * cell.shape[1])
            if abs(across) < bound and abs(down) < bound:
                cell[:] = _ZERO


@compiled
def revise_rows(
    first: int,
    last: int,
    rgb: Picture,
    change: tuple[Plane, Plane, Plane, Plane],
    tints: Planes,
    out: Picture,
) -> None:
    """Add changes of brightness and colours to a picture (h, w, 3); see `revised`."""
    width = rgb.shape[1]
    scratch = np.empty((3, width), np.float32)
    bright, reddish, bluish = scratch[0], scratch[1], scratch[2]
    for y in range(first, last):
        _enlarge(tints[0], y, reddish)
        _enlarge(tints[1], y, bluish)
        a, b, c, d = change[0][y], change[1][y], change[2][y], change[3][y]
        for x in range(width):
            bright[x] = (a[x] - b[x]) + (c[x] - d[x])
        pixels, target = rgb[y].reshape(3 * width), out[y].reshape(3 * width)
        for x in range(width):
            red = pixels[3 * x] + bright[x] + _R_OF_CR * reddish[x]
            green = pixels[3 * x + 1] + bright[x] + _G_OF_CR * reddish[x] + _G_OF_CB * bluish[x]
            blue = pixels[3 * x + 2] + bright[x] + _B_OF_CB * bluish[x]
            target[3 * x] = min(max(red, _ZERO), _ONE)
            target[3 * x + 1] = min(max(green, _ZERO), _ONE)
            target[3 * x + 2] = min(max(blue, _ZERO), _ONE)
