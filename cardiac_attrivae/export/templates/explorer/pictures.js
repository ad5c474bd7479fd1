// Slices and differences on a canvas, outlines above it, and areas of a segmentation.

const BRIGHTER = [230, 159, 0];
const DARKER = [86, 180, 233];
const FULL = 0.4; // difference that is drawn in full colour

/** One pixel of the canvas per pixel of the slice; the browser enlarges it. */
function paint(canvas, size, colour) {
  canvas.width = canvas.height = size;
  const drawing = canvas.getContext("2d");
  const pixels = drawing.createImageData(size, size);
  for (let i = 0; i < size * size; i++) {
    colour(i, pixels.data, 4 * i);
    pixels.data[4 * i + 3] = 255;
  }
  drawing.putImageData(pixels, 0, 0);
}

/** A slice in [0, 1] in grey. */
export function slice(canvas, image, size) {
  paint(canvas, size, (i, data, at) => {
    data[at] = data[at + 1] = data[at + 2] = 255 * image[i]; // rounded and kept in 0 to 255
  });
}

/** One slice minus another: brighter is orange, darker is blue, equal is black. */
export function difference(canvas, image, other, size) {
  paint(canvas, size, (i, data, at) => {
    const by = (image[i] - other[i]) / FULL;
    const colour = by > 0 ? BRIGHTER : DARKER;
    for (let c = 0; c < 3; c++) data[at + c] = Math.min(1, Math.abs(by)) * colour[c];
  });
}

/** Share of the pixels around each one that hold one of the labels, binomial 3 x 3. */
function softened(labels, size, wanted) {
  const soft = new Float32Array(size * size);
  for (let y = 1; y < size - 1; y++) {
    for (let x = 1; x < size - 1; x++) {
      let sum = 0;
      for (let dy = -1; dy <= 1; dy++) {
        for (let dx = -1; dx <= 1; dx++) {
          const weight = (2 - Math.abs(dx)) * (2 - Math.abs(dy));
          if (wanted(labels[(y + dy) * size + x + dx])) sum += weight;
        }
      }
      soft[y * size + x] = sum / 16;
    }
  }
  return soft;
}

/** Line where a field crosses 1/2, through the centres of pixels: marching squares, as an SVG path. */
function contour(field, size) {
  const parts = [];
  for (let y = 0; y + 1 < size; y++) {
    for (let x = 0; x + 1 < size; x++) {
      const at = y * size + x;
      const corners = [field[at], field[at + 1], field[at + size + 1], field[at + size]];
      const inside = corners.map((value) => value > 0.5);
      const crossings = [];
      for (let side = 0; side < 4; side++) {
        const next = (side + 1) % 4;
        if (inside[side] === inside[next]) continue;
        const part = (0.5 - corners[side]) / (corners[next] - corners[side]);
        const [dx, dy] = [[part, 0], [1, part], [1 - part, 1], [0, 1 - part]][side];
        crossings.push(`${(x + dx + 0.5).toFixed(2)} ${(y + dy + 0.5).toFixed(2)}`);
      }
      for (let k = 0; k < crossings.length; k += 2) {
        parts.push(`M${crossings[k]}L${crossings[k + 1]}`);
      }
    }
  }
  return parts.join("");
}

/** Structures in the order in which their outlines are drawn, each above the ones before. */
export const ORDER = [2, 1, 0]; // right ventricle, outer wall, cavity

/** Outlines as SVG paths, in that order; the myocardium's is the outer wall. */
export function outlines(labels, size) {
  const inside = [
    (label) => label === 1,
    (label) => label === 1 || label === 2,
    (label) => label === 3,
  ];
  return ORDER.map((structure) => contour(softened(labels, size, inside[structure]), size));
}

/** Labels of a segmenter's output: the most probable class of each pixel, 0 is background. */
export function labelled(logits, pixels) {
  const classes = logits.length / pixels;
  return Uint8Array.from({ length: pixels }, (_, i) => {
    let best = 0;
    for (let c = 1; c < classes; c++) {
      if (logits[c * pixels + i] > logits[best * pixels + i]) best = c;
    }
    return best;
  });
}

/** Area of each structure, in the unit of a pixel. */
export function areas(labels, structures, pixel) {
  const counts = new Array(structures + 1).fill(0);
  for (const label of labels) counts[label] += 1;
  return counts.slice(1).map((count) => count * pixel);
}

/**
 * Pictures side by side with lines of text below, as a PNG.
 * A picture is a canvas, a caption, and outlines with their colours.
 */
export function sheet(shown, lines) {
  const [width, edge, line] = [640, 24, 26];
  const page = document.createElement("canvas");
  page.width = shown.length * width + (shown.length + 1) * edge;
  page.height = width + 3 * edge + line * (lines.length + 1);
  const drawing = page.getContext("2d");
  drawing.fillStyle = "#fff";
  drawing.fillRect(0, 0, page.width, page.height);
  drawing.fillStyle = "#1b2530";
  drawing.font = "17px system-ui, sans-serif";
  lines.forEach((text, k) => {
    drawing.fillText(text, edge, width + 3 * edge + line * (k + 0.5), page.width - 2 * edge);
  });
  drawing.font = "600 18px system-ui, sans-serif";
  drawing.imageSmoothingQuality = "high";
  shown.forEach(({ canvas, caption, paths, colours }, k) => {
    const left = edge + k * (width + edge);
    drawing.fillText(caption, left, edge + 8, width);
    drawing.drawImage(canvas, left, 2 * edge, width, width);
    drawing.save();
    drawing.translate(left, 2 * edge);
    drawing.scale(width / canvas.width, width / canvas.width);
    drawing.lineWidth = 0.5;
    paths.forEach((path, s) => {
      drawing.strokeStyle = colours[s];
      drawing.stroke(new Path2D(path));
    });
    drawing.restore();
  });
  return new Promise((resolve) => page.toBlob(resolve, "image/png"));
}
