// What the pages share: shares in words, elements, and the drawing of a spectrogram.

export const $ = id => document.getElementById(id);
// never broken before the sign
export const percent = score => `${(100 * score).toFixed(score < 0.0995 ? 1 : 0)}\u00a0%`;
// matplotlib's magma at nine places: even in brightness, for every kind of eye
const MAGMA = [[0, 0, 4], [29, 17, 71], [81, 18, 124], [131, 38, 129], [183, 55, 121], [231, 82, 99],
  [252, 137, 97], [254, 196, 136], [252, 253, 191]];

export function element(kind, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(kind), attributes);
  made.append(...children);
  return made;
}

export function draw(canvas, {columns, bins, data}) {
  const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
  canvas.width = columns;
  canvas.height = bins;
  const context = canvas.getContext("2d"), image = context.createImageData(columns, bins);
  for (let x = 0; x < columns; x++) for (let y = 0; y < bins; y++) {
    const place = bytes[x * bins + y] / 255 * (MAGMA.length - 1), at = 4 * ((bins - 1 - y) * columns + x);
    const below = Math.min(Math.floor(place), MAGMA.length - 2), low = MAGMA[below], high = MAGMA[below + 1];
    for (let c = 0; c < 3; c++) image.data[at + c] = low[c] + (place - below) * (high[c] - low[c]);
    image.data[at + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}
