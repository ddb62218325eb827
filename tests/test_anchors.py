"""The anchors of a canvas, and those within a picture's own padded shape."""

from __future__ import annotations

import pytest
import reference
import torch

from gfl.model.anchors import cells_inside, make_grid, padded_sizes


@pytest.mark.parametrize("canvas_hw", [(32, 32), (64, 96), (800, 1344), (256, 320)])
def test_the_grid_is_that_of_the_loops(canvas_hw: tuple[int, int]) -> None:
    grid, anchors = make_grid(canvas_hw), reference.anchors_of(canvas_hw)
    assert grid.num_anchors == len(anchors)
    assert grid.centres_px.tolist() == [[anchor.x, anchor.y] for anchor in anchors]
    assert grid.strides.tolist() == [anchor.stride for anchor in anchors]
    assert list(grid.starts) == [next(i for i, a in enumerate(anchors) if a.level == level) for level in range(5)]


@pytest.mark.parametrize("canvas_hw", [(0, 32), (33, 64), (64, 100), (-32, 32)])
def test_a_canvas_of_odd_sides_is_refused(canvas_hw: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="multiples of 32"):
        make_grid(canvas_hw)


@pytest.mark.parametrize("size_hw", [(0, 0), (1, 1), (32, 32), (33, 64), (250, 301), (256, 320)])
def test_cells_of_a_pictures_own_padded_shape_are_those_of_the_loops(size_hw: tuple[int, int]) -> None:
    padded = padded_sizes(torch.tensor([size_hw], dtype=torch.int32))
    assert padded.dtype == torch.float32
    assert padded[0].tolist() == [-(-side // 32) * 32 for side in size_hw]
    high, wide = padded[0].tolist()
    expected = [reference.is_inside(anchor, (high, wide)) for anchor in reference.anchors_of((256, 320))]
    assert cells_inside(make_grid((256, 320)), padded)[0].bool().tolist() == expected
