// The viewer on the page of a patient: scan, truth, prediction and their difference in three planes and 3-D, drawn by
// NiiVue.

import { DIFFERENCE, compared, indexed, outline, robust, sameGrid, valueAt, voxelAt, worst } from "./volumes.js";

const PRESETS = {
  ct: { brain: [0, 80], "soft tissue": [-160, 240], bone: [-500, 1300], lung: [-1350, 150] },
};
const STYLES = { truth: "Truth, filled", prediction: "Prediction, outline", difference: "Difference" };
const KEYS = { t: "truth", p: "prediction", d: "difference" };
const MOVES = {
  ArrowLeft: [-1, 0, 0], ArrowRight: [1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0], PageUp: [0, 0, 1], PageDown: [0, 0, -1],
};

const place = document.getElementById("viewer");
const data = JSON.parse(place.dataset.viewer);
const $ = (selector) => place.querySelector(selector);
const notice = $(".notice");
const legend = data.labels.map((entry) => ({ ...entry })); // labels without a name are added as they are found
const query = new URLSearchParams(location.search);
const whole = query.has("full");
const asked = (query.get("at") ?? "").split(",").map(Number); // a position in RAS mm
const scans = new Map();
const layers = {};
let library, nv, scan, channel, most;

function element(tag, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...children);
  return made;
}

const chosen = (button, yes) => button.setAttribute("aria-pressed", String(yes));
const rgb = (color) => [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
const painted = () => new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));

// Images

async function load(name) {
  const { address, preview, size } = data.images[name];
  const thinned = !whole && size.reduce((product, voxels) => product * voxels) > most;
  const url = new URL(thinned ? `${preview}?max=${most}` : address, location).href;
  return library.NVImage.loadFromUrl({ url, name: `${name}.nii${thinned ? "" : ".gz"}` });
}

function colored(image, entries) {
  const colors = entries.map(([, color]) => rgb(color));
  const channelOf = (at) => [0, ...colors.map((color) => color[at])];
  const labels = ["", ...entries.map(([name]) => name)];
  image.setColormapLabel({ R: channelOf(0), G: channelOf(1), B: channelOf(2), A: [0, ...colors.map(() => 255)], labels });
}

function integers(image, values) {
  const wide = values.BYTES_PER_ELEMENT === 2;
  Object.assign(image.hdr, { datatypeCode: wide ? 512 : 2, numBitsPerVoxel: wide ? 16 : 8, scl_slope: 1, scl_inter: 0, intent_code: 1002 });
  Object.assign(image, { img: values, opacity: 0 });
}

function jump(mm) {
  nv.scene.crosshairPos = nv.mm2frac(mm, 0, true); // true: by the affine, also of a tilted scan
  nv.createOnLocationChange();
  nv.drawScene();
}

function read({ mm }) {
  const at = voxelAt(scan, mm), lines = [];
  const add = (name, value) => lines.push(element("span", {}, element("b", { textContent: name }), ` ${value}`));
  add("mm", Array.from(mm).slice(0, 3).map((value) => value.toFixed(1)).join(", "));
  if (at) {
    const steps = data.images[channel].size.map((voxels, axis) => Math.ceil(voxels / scan.hdr.dims[axis + 1]));
    add("voxel", at.map((index, axis) => index * steps[axis]).join(", "));
    add(channel, Number((valueAt(scan.img, scan, at) * scan.hdr.scl_slope + scan.hdr.scl_inter).toPrecision(5)));
  }
  for (const name of ["truth", "prediction"]) {
    const voxel = layers[name] && voxelAt(layers[name].image, mm);
    if (voxel) add(name, legend[valueAt(layers[name].labels, layers[name].image, voxel) - 1]?.name ?? "–");
  }
  $(".readout").replaceChildren(...lines);
}

// What is shown

/** Do something before the next frame, once. */
function redraw(work) {
  cancelAnimationFrame(redraw.next);
  redraw.next = requestAnimationFrame(work);
}

/** Draw the masks again; the scan stays as it is, which saves a pass over its voxels. */
function blend() {
  const images = Object.values(layers).map(({ image }) => image);
  const visible = images.filter((image) => image.opacity);
  (visible.length ? visible : images.slice(0, 1)).forEach((image, index) => {
    nv.opts.atlasOutline = image === layers.prediction?.image ? image.opacity : 0; // opacity of borders
    nv.refreshLayers(image, index + 1);
  });
  nv.drawScene();
}

function toggle(name, on = !layers[name]?.on) {
  const layer = layers[name];
  if (!layer) return;
  layer.on = on;
  layer.image.opacity = on ? Number(layer.slider.value) : 0;
  chosen(layer.button, on);
  redraw(blend);
}

function addLayer(name, image, labels, entries) {
  integers(image, name === "prediction" ? outline(labels, image.hdr.dims) : labels);
  colored(image, entries);
  const button = element("button", { type: "button", textContent: STYLES[name] });
  const slider = element("input", { type: "range", min: 0, max: 1, step: 0.05, value: { truth: 0.45, prediction: 1, difference: 0.8 }[name] });
  slider.setAttribute("aria-label", `Opacity of ${name}`);
  button.addEventListener("click", () => toggle(name));
  slider.addEventListener("input", () => toggle(name, true));
  layers[name] = { image, labels, button, slider, on: false };
  chosen(button, false);
  $(".layers").append(button, slider);
  nv.volumes.push(image);
  nv.overlays = nv.volumes.slice(1);
}

function showLegend() {
  const row = (name, color, apart) => {
    const item = element("li", { className: apart ? "apart" : "" });
    item.innerHTML = '<svg viewBox="0 0 1 1" aria-hidden="true"><rect width="1" height="1" rx=".2"/></svg>';
    item.querySelector("rect").setAttribute("fill", color);
    item.append(name);
    return item;
  };
  const differing = layers.difference ? DIFFERENCE.map(([name, color], index) => row(name, color, !index)) : [];
  $(".legend").replaceChildren(...legend.map(({ name, color }) => row(name, color)), ...differing);
}

function setWindow(low, high) {
  if (!(low < high)) return;
  [scan.cal_min, scan.cal_max] = [low, high];
  [$("[name=low]").value, $("[name=high]").value] = [low, high].map((value) => Number(value.toPrecision(4)));
  nv.updateGLVolume();
}

const presets = () => ({ ...PRESETS[data.modality], robust: robust(scan) });

async function showChannel(name) {
  if (!scans.has(name)) scans.set(name, await load(name));
  [scan, channel] = [scans.get(name), name];
  nv.volumes[0] = nv.back = scan;
  setWindow(...(presets()[$("[name=window]").value] ?? robust(scan)));
  nv.createOnLocationChange();
}

// The page

function bind() {
  const { SLICE_TYPE } = library;
  const layouts = { All: SLICE_TYPE.MULTIPLANAR, Axial: SLICE_TYPE.AXIAL, Coronal: SLICE_TYPE.CORONAL, Sagittal: SLICE_TYPE.SAGITTAL, "3-D": SLICE_TYPE.RENDER };
  for (const [name, type] of Object.entries(layouts)) {
    const button = element("button", { type: "button", textContent: name });
    button.addEventListener("click", () => {
      $(".choices").childNodes.forEach((other) => chosen(other, other === button));
      nv.setSliceType(type);
    });
    chosen(button, type === SLICE_TYPE.MULTIPLANAR);
    $(".choices").append(button);
  }
  $("[name=channel]").append(...data.channels.map((name) => element("option", { textContent: name })));
  $("[name=channel]").addEventListener("change", ({ target }) => showChannel(target.value));
  const names = [...Object.keys(PRESETS[data.modality] ?? {}), "robust"];
  $("[name=window]").append(...names.map((name) => element("option", { value: name, textContent: name === "robust" ? "0.5–99.5 %" : name })));
  $("[name=window]").value = data.modality === "ct" ? "soft tissue" : "robust";
  $("[name=window]").addEventListener("change", ({ target }) => setWindow(...presets()[target.value]));
  for (const end of ["low", "high"]) {
    $(`[name=${end}]`).addEventListener("change", () => setWindow(Number($("[name=low]").value), Number($("[name=high]").value)));
  }
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input, textarea, select") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (KEYS[event.key]) toggle(KEYS[event.key]);
    else if (event.key === "w") $("[name=worst]").click();
    else if (MOVES[event.key] && event.target === nv.canvas) {
      nv.moveCrosshairInVox(...MOVES[event.key]);
      event.preventDefault();
    }
  });
}

async function addMasks() {
  const names = ["truth", "prediction"].filter((name) => data.images[name]);
  const images = await Promise.all(names.map(load));
  const labels = images.map((image) => indexed(image, legend, data.palette));
  names.forEach((name, index) => addLayer(name, images[index], labels[index], legend.map((entry) => [entry.name, entry.color])));
  if (names.length === 2) {
    if (sameGrid(...images)) addLayer("difference", images[0].clone(), compared(...labels), DIFFERENCE);
    else notice.append(" Truth and prediction are on different grids; their difference is not shown.");
  }
  showLegend();
  names.forEach((name) => toggle(name, true));
  const slice = layers.difference && worst(layers.difference);
  if (layers.difference) $(".worst").textContent = slice ? `${slice.voxels} differing voxels${notice.textContent ? " of those shown" : ""}` : "truth and prediction are equal";
  if (!slice) return;
  $("[name=worst]").disabled = false;
  $("[name=worst]").addEventListener("click", () => jump(slice.mm));
  jump(slice.mm);
}

async function addLesions() {
  if (!data.lesions) return;
  const answer = await fetch(data.lesions);
  if (!answer.ok) return;
  const { lesions, more } = await answer.json();
  const table = element("table");
  for (const lesion of lesions) {
    const button = element("button", { type: "button" });
    button.append(element("span", { textContent: lesion.class }), element("span", { textContent: lesion.status }), element("span", { textContent: `${Number(lesion.volume_ml.toPrecision(3))} ml` }));
    button.title = `center ${lesion.center_mm.map((value) => value.toFixed(1)).join(", ")} mm`;
    button.addEventListener("click", () => {
      table.querySelector("[aria-current]")?.removeAttribute("aria-current");
      button.setAttribute("aria-current", "true");
      jump(lesion.inside_mm);
    });
    table.insertRow().insertCell().append(button);
  }
  if (more) table.insertRow().insertCell().textContent = `and ${more} smaller ones`;
  $(".lesions").replaceChildren(table);
  $(".lesions").hidden = !lesions.length;
}

async function start() {
  const started = performance.now();
  await import(`${data.library}/niivue.umd.js`);
  library = globalThis.niivue;
  nv = new library.Niivue({ backColor: [0, 0, 0, 1], show3Dcrosshair: true, crosshairWidth: 0.5, crosshairColor: [1, 1, 1, 0.6],
    sagittalNoseLeft: true, isRadiologicalConvention: true, dragAndDropEnabled: false, loadingText: "", isColorbar: false, logLevel: "error" });
  // NiiVue carries its font and its surface shading as data: addresses, which the policy of the pages forbids.
  nv.DEFAULT_FONT_GLYPH_SHEET = `${data.library}/font.png`;
  nv.loadDefaultMatCap = async () => null;
  nv.keyDownListener = nv.keyUpListener = () => {}; // the keys are those of the page
  nv.onLocationChange = read;
  place.classList.add("ready");
  await nv.attachToCanvas($("canvas"));
  // Without a graphics card, fewer voxels are drawn, and the 3-D view only if it is asked for.
  const info = nv.gl.getExtension("WEBGL_debug_renderer_info");
  const software = /swiftshader|llvmpipe|software|basic render/i.test(info ? nv.gl.getParameter(info.UNMASKED_RENDERER_WEBGL) : "");
  most = data.most[software ? "software" : "hardware"];
  nv.opts.multiplanarShowRender = library.SHOW_RENDER[software ? "NEVER" : "ALWAYS"];
  nv.opts.multiplanarLayout = library.MULTIPLANAR_TYPE[software ? "AUTO" : "GRID"];
  bind();
  await showChannel(data.channels[0]);
  notice.textContent = "";
  const size = data.images[data.channels[0]].size.join(" × "), shown = Array.from(scan.hdr.dims).slice(1, 4).join(" × ");
  if (size !== shown) {
    notice.append(`Thinned from ${size} to ${shown} voxels to open quickly. `, element("a", { href: `?full&at=${query.get("at") ?? ""}`, textContent: "Load all voxels" }));
  }
  await painted();
  await addMasks();
  if (asked.length === 3 && asked.every(Number.isFinite)) jump(asked);
  await addLesions();
  place.dataset.seconds = ((performance.now() - started) / 1000).toFixed(2);
  place.dataset.state = "ready";
}

if (data.channels.length) {
  if (document.createElement("canvas").getContext("webgl2")) {
    start().catch((error) => {
      notice.textContent = `The viewer failed: ${error.message}`;
      place.dataset.state = "failed";
      throw error;
    });
  } else {
    notice.textContent = "This browser has no WebGL 2, which the viewer needs. The still picture of the patient shows its worst slice.";
    place.dataset.state = "failed";
  }
}
