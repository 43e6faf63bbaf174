"use strict";
// Raw maps: unpacked, and brought onto the picture. Values are upsampled, colours never.

const data = JSON.parse(document.getElementById("data").textContent);
const maps = {}; // key -> {height, width, values, highest, flat}, and strongest once it is asked for

// Unpacking

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

async function unpackMaps(packed) {
  const stream = new Blob([bytesOf(packed.block)]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  const isExact = packed.precision === "float32";
  const numbers = isExact ? new Float32Array(buffer) : new Uint16Array(buffer);
  for (const [key, { start, grid: [height, width], low, high }] of Object.entries(packed.places)) {
    const stored = numbers.subarray(start, start + height * width);
    const values = isExact ? stored : Float32Array.from(stored, (code) => low + (high - low) * (code / 65535));
    maps[key] = { height, width, values, highest: high, flat: low === high };
  }
}

// The value that the strongest cells reach which hold a tenth of the positive evidence together; 0 where there is none.
function strongestShare(map) {
  if (map.strongest !== undefined) return map.strongest;
  const positive = Float64Array.from(map.values.filter((value) => value > 0)).sort().reverse();
  let left = 0.1 * positive.reduce((sum, value) => sum + value, 0);
  map.strongest = positive.find((value) => (left -= value) <= 0) ?? 0;
  return map.strongest;
}

// Geometry. Centres of pixels and cells lie at half-integers; a grid covers the network's input, padding included.

// Where a position along one side of the picture lies between two cells' centres: [first, second, part].
function between(position, ratio, pad, inputSide, cells) {
  const cell = ((position * ratio + pad) / inputSide) * cells - 0.5;
  const inside = Math.min(Math.max(cell, 0), cells - 1);
  const first = Math.floor(inside);
  return [first, Math.min(first + 1, cells - 1), inside - first];
}

// Whether the input shows that position: it may be a middle cut out of the picture.
function isSeen(position, ratio, pad, inputSide) {
  const input = position * ratio + pad;
  return input >= 0 && input <= inputSide;
}

// The raw value of a map at a point of the picture, in its pixels.
function valueAt(explanation, map, x, y) {
  const { ratio, pad, input } = explanation;
  if (!isSeen(x, ratio[0], pad[0], input.width) || !isSeen(y, ratio[1], pad[1], input.height)) return 0;
  const [left, right, across] = between(x, ratio[0], pad[0], input.width, map.width);
  const [top, bottom, down] = between(y, ratio[1], pad[1], input.height, map.height);
  const along = (row) => map.values[row * map.width + left] * (1 - across) + map.values[row * map.width + right] * across;
  return along(top) * (1 - down) + along(bottom) * down;
}

// `between` and `isSeen` for the `count` pixels along one side of the picture, in typed arrays, for they are read for
// every pixel.
function sampling(count, length, ratio, pad, inputSide, cells) {
  const first = new Int32Array(count), second = new Int32Array(count);
  const part = new Float64Array(count), seen = new Uint8Array(count);
  for (let i = 0; i < count; i++) {
    const position = ((i + 0.5) / count) * length;
    [first[i], second[i], part[i]] = between(position, ratio, pad, inputSide, cells);
    seen[i] = isSeen(position, ratio, pad, inputSide);
  }
  return { first, second, part, seen };
}

// A map's raw values on the picture, seen as `height` x `width` pixels: bilinear, the padding cut off.
function upsample(explanation, map, height, width) {
  const { ratio, pad, input } = explanation, { picture } = data;
  const columns = sampling(width, picture.width, ratio[0], pad[0], input.width, map.width);
  const rows = sampling(height, picture.height, ratio[1], pad[1], input.height, map.height);
  const values = new Float32Array(height * width), line = new Float32Array(map.width);
  for (let row = 0; row < height; row++) {
    if (!rows.seen[row]) continue;
    const top = rows.first[row] * map.width, bottom = rows.second[row] * map.width, down = rows.part[row];
    for (let i = 0; i < map.width; i++) line[i] = map.values[top + i] * (1 - down) + map.values[bottom + i] * down;
    for (let column = 0, at = row * width; column < width; column++, at++) {
      const across = columns.part[column], left = line[columns.first[column]], right = line[columns.second[column]];
      if (columns.seen[column]) values[at] = left * (1 - across) + right * across;
    }
  }
  return values;
}
