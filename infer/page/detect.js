// Prepares pictures as infer does, reads what the model gives, and draws it: the one module of both pages, with a
// server and without. The rules are those of gfl/data/transforms.py, gfl/data/canvas.py, infer/rows.py and
// gfl/report/draw.py. Sizes are [height, width] in px.

export const SAME_OBJECT_IOU = 0.5; // of boxes that share more, the best is drawn
export const MOST_PIXELS = 180_000_000; // of a picture that is decoded, as gfl/shapes.py
const STRIP_PIXELS = 1 << 21;

// ---- from a file to the model's input ----

// A picture file as a bitmap: upright by its EXIF orientation, colour profiles left aside, as OpenCV reads it.
export function decode(blob) {
  return createImageBitmap(blob, { imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none" });
}

// A reader of a bitmap's rows, from the top down: where a row's RGBA bytes begin, and in what. A strip is read at a time,
// for browsers bound the area of a canvas, and phones their memory.
export function rowsOf(bitmap) {
  const { height, width } = bitmap;
  if (height * width > MOST_PIXELS) {
    throw new Error(`got a picture of ${height * width} pixels, expected at most ${MOST_PIXELS}; give a smaller one`);
  }
  const strip = Math.min(height, Math.max(1, Math.floor(STRIP_PIXELS / width)));
  const context = new OffscreenCanvas(width, strip).getContext("2d", { willReadFrequently: true });
  let start = -1, data = null;
  return (y) => {
    if (data === null || y < start || y >= start + strip) {
      start = y;
      context.clearRect(0, 0, width, strip);
      context.drawImage(bitmap, 0, -y);
      data = context.getImageData(0, 0, width, strip).data;
    }
    return { data, at: 4 * (y - start) * width };
  };
}

// The reference's rule: the largest size of the same ratio with no side above longSide and the shorter not above shortSide.
export function resizedSize(height, width, shortSide, longSide) {
  const scale = Math.min(longSide / Math.max(height, width), shortSide / Math.min(height, width));
  return [height, width].map((side) => Math.max(1, Math.floor(side * scale + 0.5)));
}

// The canvas that shrinks a resized picture least, and its size there; of those that shrink it equally, the smallest.
export function fitCanvas([height, width], canvases) {
  const factor = (canvas) => Math.min(1, canvas[0] / height, canvas[1] / width);
  const before = (a, b) => factor(b) - factor(a) || a[0] * a[1] - b[0] * b[1] || a[0] - b[0];
  const canvas = canvases.reduce((best, each) => (before(each, best) < 0 ? each : best));
  const sides = [height, width].map((side) => Math.floor(side * factor(canvas) + 0.5));
  return { canvas, size: sides.map((side, axis) => Math.max(1, Math.min(canvas[axis], side))) };
}

// The places and weights, in 1/2048, of OpenCV's INTER_LINEAR along one axis. Beyond an edge it takes a column alone, and
// a row twice, which rounds otherwise.
function taps(from, to, isRow) {
  const first = new Int32Array(to), second = new Int32Array(to), weights = new Int32Array(2 * to);
  const scale = 1 / (to / from);
  for (let i = 0; i < to; i++) {
    let at = Math.fround((i + 0.5) * scale - 0.5);
    let place = Math.floor(at);
    at = Math.fround(at - place);
    if (!isRow && (place < 0 || place >= from - 1)) at = 0;
    first[i] = Math.min(Math.max(place, 0), from - 1);
    second[i] = Math.min(place + 1, from - 1);
    weights[2 * i] = halfEven(Math.fround(1 - at) * 2048);
    weights[2 * i + 1] = halfEven(at * 2048);
  }
  return { first, second, weights };
}

function halfEven(value) {
  const low = Math.floor(value);
  const above = value - low;
  return above > 0.5 || (above === 0.5 && low % 2) ? low + 1 : low;
}

// Resize a picture, given by a reader of its rows, into the top left corner of a canvas of planes, uint8 (3,H,W), zeros beside and below.
export function resizeOnto(rowAt, [height, width], [newHeight, newWidth], [canvasHeight, canvasWidth]) {
  const planes = new Uint8Array(3 * canvasHeight * canvasWidth);
  const plane = canvasHeight * canvasWidth;
  const rows = taps(height, newHeight, true), columns = taps(width, newWidth, false);
  const cache = new Map(); // row of the picture -> that row, resized, times 2048
  const resizedRow = (y) => {
    let row = cache.get(y);
    if (row) return row;
    row = new Int32Array(3 * newWidth);
    const { data, at: start } = rowAt(y);
    for (let x = 0, to = 0; x < newWidth; x++) {
      const left = start + 4 * columns.first[x], right = start + 4 * columns.second[x];
      const a = columns.weights[2 * x], b = columns.weights[2 * x + 1];
      for (let colour = 0; colour < 3; colour++) row[to++] = data[left + colour] * a + data[right + colour] * b;
    }
    cache.set(y, row);
    return row;
  };
  for (let y = 0; y < newHeight; y++) {
    const above = resizedRow(rows.first[y]), below = resizedRow(rows.second[y]);
    const a = rows.weights[2 * y], b = rows.weights[2 * y + 1];
    for (let x = 0, at = 0; x < newWidth; x++) {
      for (let colour = 0; colour < 3; colour++, at++) {
        const level = (((a * (above[at] >> 4)) >> 16) + ((b * (below[at] >> 4)) >> 16) + 2) >> 2;
        planes[colour * plane + y * canvasWidth + x] = level;
      }
    }
    for (const old of cache.keys()) if (old < rows.first[y]) cache.delete(old);
  }
  return planes;
}

// A decoded picture as the model takes it, with the canvas that was chosen for it.
export function prepare(bitmap, model) {
  const resized = resizedSize(bitmap.height, bitmap.width, model.short_side, model.long_side);
  const { canvas, size } = fitCanvas(resized, model.canvases);
  return { canvas, size, planes: resizeOnto(rowsOf(bitmap), [bitmap.height, bitmap.width], size, canvas) };
}

// ---- from the model's outputs to a row, as infer/rows.py has it ----

const round = (value, digits) => halfEven(value * 10 ** digits) / 10 ** digits;

// The row of one picture; outputs: name -> array of numbers, of a batch of one; size: of the resized picture.
export function rowOf(outputs, [height, width], size, model) {
  const scales = [size[1] / width, size[0] / height].map(Math.fround);
  const inPicture = (values, i) => [0, 1, 2, 3].map((edge) => Math.fround(values[4 * i + edge] / scales[edge % 2]));
  const detections = [];
  for (let i = 0; i < outputs.count[0]; i++) {
    const label = outputs.labels[i];
    if (label < 0 || label >= model.names.length) continue;
    const [left, top, right, bottom] = inPicture(outputs.boxes, i).map((edge) => round(edge, 2));
    detections.push({
      category_id: model.category_ids[label],
      bbox: [left, top, round(right - left, 2), round(bottom - top, 2)],
      score: round(outputs.scores[i], 5),
      edge_std: inPicture(outputs.edge_std, i).map((spread) => round(spread, 3)),
    });
  }
  return { width, height, count: detections.length, complete: outputs.complete[0] === 1, failure: null, detections };
}

// ---- what is shown, and its drawing, as gfl/report/draw.py draws it ----

// Apart for every kind of colour vision; a class has one colour on every picture.
export const PALETTE = [
  [230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178],
  [213, 94, 0], [204, 121, 167], [136, 34, 85], [170, 255, 195], [51, 34, 136],
];
const CAPITAL = 0.55; // height of a capital, as a share of its tag
const LARGEST_TAG = 1.5; // times the area of its box
const LONGEST_NAME = 24; // letters

const rgb = (colour) => `rgb(${colour.join(" ")})`;

function overlap([x, y, width, height], [otherX, otherY, otherWidth, otherHeight]) {
  const across = Math.min(x + width, otherX + otherWidth) - Math.max(x, otherX);
  const down = Math.min(y + height, otherY + otherHeight) - Math.max(y, otherY);
  const shared = Math.max(0, across) * Math.max(0, down);
  return shared / Math.max(width * height + otherWidth * otherHeight - shared, 1e-6);
}

// The detections of a row that are drawn, best first, each with its label: those of classes that are on and of at least
// their class's score, one an object. classes: by label, {on, score}.
export function shownOf(row, model, classes) {
  const shown = [];
  for (const detection of row.detections) {
    const label = model.category_ids.indexOf(detection.category_id);
    const chosen = label >= 0 && classes[label].on && detection.score >= classes[label].score;
    if (chosen && !shown.some((better) => overlap(better.bbox, detection.bbox) > SAME_OBJECT_IOU)) {
      shown.push({ ...detection, label });
    }
  }
  return shown;
}

// Draw what `shownOf` gives on a context whose picture has this size; edges: with whiskers.
export function draw(context, [height, width], shown, model, edges) {
  const growth = (height * width / (640 * 480)) ** 0.4;
  const line = Math.max(1, Math.round(2 * growth));
  const tag = Math.max(11, Math.round(17 * growth));
  const tags = [tag, Math.max(11, Math.round(0.75 * tag))];
  const marks = shown.map((detection) => markOf(detection, [height, width], model)).filter(Boolean);
  for (const mark of [...marks].reverse()) {
    const [left, top, right, bottom] = mark.box;
    for (const [colour, thick] of [["black", line + 2], [mark.colour, line]]) {
      if (colour === "black" && line === 1) continue;
      context.strokeStyle = colour;
      context.lineWidth = thick;
      context.strokeRect(left + 0.5, top + 0.5, right - left - 1, bottom - top - 1);
    }
    if (edges && mark.spread) drawWhiskers(context, mark, line);
  }
  const placed = [];
  for (const mark of marks) {
    const found = possibleTags(context, mark, [height, width], line, tags).find(
      ({ box }) => !placed.some((other) => meet(box, other)),
    );
    if (!found) continue;
    placed.push(found.box);
    drawTag(context, found, mark.rgb);
  }
}

function markOf(detection, [height, width], model) {
  const [x, y, w, h] = detection.bbox;
  let [left, top, right, bottom] = [x, y, x + w, y + h].map(Math.round);
  if (![left, top, right, bottom].every(Number.isFinite)) return null;
  if (left >= width || top >= height || right < 0 || bottom < 0 || right < left || bottom < top) return null;
  left = Math.min(Math.max(left, 0), width - 1);
  top = Math.min(Math.max(top, 0), height - 1);
  const box = [left, top, Math.max(left + 1, Math.min(right, width)), Math.max(top + 1, Math.min(bottom, height))];
  const full = model.names[detection.label];
  const name = full.length <= LONGEST_NAME ? full : `${full.slice(0, LONGEST_NAME - 3)}...`;
  const colour = PALETTE[detection.label % PALETTE.length];
  const texts = [`${name} ${detection.score.toFixed(2)}`, name];
  return { box, rgb: colour, colour: rgb(colour), texts, spread: detection.edge_std };
}

// Each edge's spread to both sides of it, as error bars are drawn; a spread below a pixel has none.
function drawWhiskers(context, { box, colour, spread }, line) {
  const [left, top, right, bottom] = [box[0], box[1], box[2] - 1, box[3] - 1];
  const middleX = (left + right) >> 1, middleY = (top + bottom) >> 1, bar = 1 + 2 * line;
  const path = new Path2D();
  [[left, middleY, 1, 0], [middleX, top, 0, 1], [right, middleY, 1, 0], [middleX, bottom, 0, 1]].forEach(
    ([x, y, alongX, alongY], edge) => {
      if (!(spread[edge] >= 1)) return;
      const reach = Math.round(spread[edge]);
      const ends = [-reach, reach].map((way) => [x + 0.5 + way * alongX, y + 0.5 + way * alongY]);
      path.moveTo(...ends[0]);
      path.lineTo(...ends[1]);
      for (const [endX, endY] of ends) {
        path.moveTo(endX - bar * alongY, endY - bar * alongX);
        path.lineTo(endX + bar * alongY, endY + bar * alongX);
      }
    },
  );
  context.lineCap = "square";
  for (const [ink, thick] of [["black", line + 2], [colour, line]]) {
    context.strokeStyle = ink;
    context.lineWidth = thick;
    context.stroke(path);
  }
}

const fontOf = (tagHeight) => `${(tagHeight * CAPITAL) / 0.72}px system-ui, sans-serif`; // 0.72: a capital of its font's size

function* possibleTags(context, { box, texts }, [height, width], line, tagHeights) {
  const [left, top, right, bottom] = box;
  const rim = line >> 1;
  for (const text of texts) {
    for (const tagH of tagHeights) {
      context.font = fontOf(tagH);
      const tagW = Math.ceil(context.measureText(text).width) + (tagH >> 1);
      if (tagW > width || tagH > height || tagW * tagH > LARGEST_TAG * (right - left) * (bottom - top)) continue;
      for (const y of [top - rim - tagH, top - rim, bottom + rim, bottom + rim - tagH]) {
        for (const edge of [left - rim, right + rim - tagW]) {
          const x = Math.min(Math.max(edge, 0), width - tagW);
          if (y >= 0 && y <= height - tagH) yield { text, box: [x, y, x + tagW, y + tagH] };
        }
      }
    }
  }
}

const meet = (one, other) => one[0] < other[2] && other[0] < one[2] && one[1] < other[3] && other[1] < one[3];

function drawTag(context, { text, box: [left, top, right, bottom] }, ground) {
  context.fillStyle = rgb(ground);
  context.fillRect(left, top, right - left, bottom - top);
  const [red, green, blue] = ground.map((part) => (part / 255) ** 2.2); // sRGB to light, near enough to choose by
  context.fillStyle = 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 ? "black" : "white";
  context.font = fontOf(bottom - top);
  context.textBaseline = "alphabetic";
  context.fillText(text, left + ((bottom - top) >> 2), top + Math.round(((bottom - top) * (1 + CAPITAL)) / 2));
}
