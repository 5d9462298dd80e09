// Arithmetic on the voxels of NiiVue's images, in the order of their files; positions are in RAS mm. Labels are positions
// in a legend, from 1, so that any label of a 16-bit mask has a color.

export const DIFFERENCE = [
  ["truth only", "#56b4e9"], ["prediction only", "#d55e00"], ["same label", "#009e73"], ["different labels", "#cc79a7"],
];

/** The labels of an image as positions in the legend, from 1; labels that it lacks are appended to it. */
export function indexed(image, legend, palette) {
  const { scl_slope: slope, scl_inter: shift } = image.hdr;
  const places = new Uint16Array(65536);
  legend.forEach((entry, index) => { places[entry.label] = index + 1; });
  const values = new Uint16Array(image.img.length);
  for (let i = 0; i < values.length; i++) {
    const label = image.img[i] && Math.round(image.img[i] * slope + shift);
    if (!label) continue;
    if (!places[label]) {
      legend.push({ label, name: `label ${label}`, color: palette[legend.length % palette.length] });
      places[label] = legend.length;
    }
    values[i] = places[label];
  }
  return legend.length < 256 ? Uint8Array.from(values) : values;
}

/** Positions in DIFFERENCE, from 1. */
export function compared(truth, prediction) {
  const codes = new Uint8Array(truth.length);
  for (let i = 0; i < codes.length; i++) {
    const t = truth[i], p = prediction[i];
    if (t || p) codes[i] = !p ? 1 : !t ? 2 : t === p ? 3 : 4;
  }
  return codes;
}

/** The voxels with a neighbor of another label. */
export function outline(labels, [, nx, ny, nz]) {
  const border = new labels.constructor(labels.length);
  for (let k = 0, at = 0; k < nz; k++) for (let j = 0; j < ny; j++) for (let i = 0; i < nx; i++, at++) {
    const label = labels[at];
    if (!label) continue;
    if (!i || !j || !k || i === nx - 1 || j === ny - 1 || k === nz - 1 || labels[at - 1] !== label || labels[at + 1] !== label
      || labels[at - nx] !== label || labels[at + nx] !== label || labels[at - nx * ny] !== label || labels[at + nx * ny] !== label) border[at] = label;
  }
  return border;
}

/** Whether two images have the same size and place. */
export const sameGrid = (one, other) =>
  one.hdr.dims.slice(1, 4).every((voxels, axis) => voxels === other.hdr.dims[axis + 1]) && one.hdr.affine.flat().every((value, i) => Math.abs(value - other.hdr.affine.flat()[i]) < 1e-2);

export const toMm = (image, [i, j, k]) => image.hdr.affine.slice(0, 3).map((row) => row[0] * i + row[1] * j + row[2] * k + row[3]);

/** The voxel of an image at a position, in the order of its file; null outside. */
export function voxelAt(image, mm) {
  const [a, b, c] = [0, 1, 2].map((column) => image.hdr.affine.slice(0, 3).map((row) => row[column]));
  const offset = Array.from(mm).slice(0, 3).map((value, axis) => value - image.hdr.affine[axis][3]);
  const cross = (u, v) => [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
  const dot = (u, v) => u[0] * v[0] + u[1] * v[1] + u[2] * v[2];
  const volume = dot(a, cross(b, c));
  const voxel = [cross(b, c), cross(c, a), cross(a, b)].map((side) => Math.round(dot(offset, side) / volume));
  return voxel.every((index, axis) => index >= 0 && index < image.hdr.dims[axis + 1]) ? voxel : null;
}

export const valueAt = (values, { hdr: { dims } }, [i, j, k]) => values[i + dims[1] * (j + dims[2] * k)];

/** The slice across the axis nearest to the body's with most voxels of another label, at the center of those. */
export function worst({ image, labels }) {
  const [, nx, ny, nz] = image.hdr.dims;
  const along = [0, 1, 2].reduce((best, axis) => (Math.abs(image.hdr.affine[2][axis]) > Math.abs(image.hdr.affine[2][best]) ? axis : best), 0);
  const sums = Array.from({ length: [nx, ny, nz][along] }, () => [0, 0, 0, 0]);
  for (let k = 0, at = 0; k < nz; k++) for (let j = 0; j < ny; j++) for (let i = 0; i < nx; i++, at++) {
    if (!labels[at] || labels[at] === 3) continue;
    const sum = sums[[i, j, k][along]];
    sum[0] += i; sum[1] += j; sum[2] += k; sum[3] += 1;
  }
  const most = sums.reduce((best, sum) => (sum[3] > best[3] ? sum : best));
  return most[3] ? { mm: toMm(image, most.slice(0, 3).map((sum) => Math.round(sum / most[3]))), voxels: most[3] } : null;
}

/** The 0.5th and 99.5th percentile of intensities, without air. */
export function robust(image) {
  const step = Math.max(1, Math.floor(image.img.length / 200000));
  const values = Float32Array.from({ length: Math.floor(image.img.length / step) }, (_, i) => image.img[i * step]).sort();
  const inside = values.subarray(values.findIndex((value) => value > values[0])); // without air of one value
  const at = (fraction) => inside[Math.floor(fraction * (inside.length - 1))] * image.hdr.scl_slope + image.hdr.scl_inter;
  return [at(0.005), at(0.995)];
}
