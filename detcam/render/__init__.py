"""From raw maps to something one can look at: the only room that normalises or colours.

Everything here is a pure function of numpy arrays; pictures are (H, W, 3) uint8 RGB throughout.
`render.paper` is imported by itself, since matplotlib comes with it.
"""

from detcam.render.boxes import PALETTE, box_outlines, class_colour, corners_of, draw_boxes
from detcam.render.colour import COLORMAPS, blend, colourise, scale_map, strongest_share
from detcam.render.mapfile import (
    EncodedMap,
    decode_map_16bit,
    encode_map_16bit,
    read_map_png,
    write_map_png,
)
from detcam.render.outlines import draw_outline
from detcam.render.sheets import contact_sheet, magnify, shrink, with_colour_bar
from detcam.render.values import (
    MOST_TILES,
    TILE_SCALES,
    ColourKey,
    TileScale,
    TileStyle,
    colour_kernel_sheet,
    matrix_sheet,
    tile_sheet,
)

__all__ = [
    "COLORMAPS",
    "MOST_TILES",
    "PALETTE",
    "TILE_SCALES",
    "ColourKey",
    "EncodedMap",
    "TileScale",
    "TileStyle",
    "blend",
    "box_outlines",
    "class_colour",
    "colour_kernel_sheet",
    "colourise",
    "contact_sheet",
    "corners_of",
    "decode_map_16bit",
    "draw_boxes",
    "draw_outline",
    "encode_map_16bit",
    "magnify",
    "matrix_sheet",
    "read_map_png",
    "scale_map",
    "shrink",
    "strongest_share",
    "tile_sheet",
    "with_colour_bar",
    "write_map_png",
]
