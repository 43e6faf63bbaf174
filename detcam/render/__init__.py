"""From raw maps to something one can look at: the only room that normalises or colours.

Everything here is a pure function of numpy arrays; pictures are (H, W, 3) uint8 RGB throughout.
"""

from detcam.render.boxes import PALETTE, class_colour, draw_boxes
from detcam.render.colour import COLORMAPS, blend, colourise, scale_map
from detcam.render.mapfile import (
    EncodedMap,
    decode_map_16bit,
    encode_map_16bit,
    read_map_png,
    write_map_png,
)
from detcam.render.paper import ONE_COLUMN, TWO_COLUMNS, figure
from detcam.render.sheets import contact_sheet, with_colour_bar

__all__ = [
    "COLORMAPS",
    "ONE_COLUMN",
    "PALETTE",
    "TWO_COLUMNS",
    "EncodedMap",
    "blend",
    "class_colour",
    "colourise",
    "contact_sheet",
    "decode_map_16bit",
    "draw_boxes",
    "encode_map_16bit",
    "figure",
    "read_map_png",
    "scale_map",
    "with_colour_bar",
    "write_map_png",
]
