// All folds in one plot per quantity; new epochs are fetched every two seconds. Needs uPlot.

const root = document.getElementById("curves");
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
// Okabe, Ito: distinguishable with any color vision.
const COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#999933"];
const PLOTS = [
  ["training_loss", "training loss", (value) => value.toPrecision(4)],
  ["validation_loss", "validation loss", (value) => value.toPrecision(4)],
  ["learning_rate", "learning rate", (value) => (value ? value.toExponential(1) : "0")],
  ["waiting", "share of the time", (value) => `${+(100 * value).toFixed(1)} %`],
];
const folds = new Map();
const plots = [];
const sync = uPlot.sync("epochs");
const smooth = document.getElementById("smooth");
const logarithmic = document.getElementById("log");

function series(key) {
  const length = Math.max(0, ...[...folds.values()].map((fold) => Math.max(fold.epochs.length, fold.before.length)));
  const epochs = Array.from({ length }, (_, place) => place + 1);
  const values = (rows) => smoothed(epochs.map((_, place) => rows[place]?.[key] ?? null));
  return [epochs, ...[...folds.values()].flatMap((fold) => [...(fold.before.length ? [values(fold.before)] : []), values(fold.epochs)])];
}

// An exponential mean with the time constant of the slider, in epochs.
function smoothed(values) {
  const constant = Number(smooth.value);
  if (!constant) return values;
  const keep = Math.exp(-1 / constant);
  let mean = null;
  return values.map((value) => {
    if (value === null) return null;
    mean = mean === null ? value : keep * mean + (1 - keep) * value;
    return mean;
  });
}

function draw() {
  for (const plot of plots.splice(0)) plot.destroy();
  for (const [key, title, format] of PLOTS) {
    const place = document.getElementById(`plot_${key}`);
    const log = logarithmic.checked && key !== "waiting";
    const number = (plot, value) => (value == null ? "–" : format(value));
    const lines = [...folds.values()].flatMap(({ fold, before }, index) => [
      ...(before.length
        ? [{ label: `fold ${fold} before`, stroke: color("--faint"), width: 1, dash: [4, 3], spanGaps: true, value: number,
            points: { show: false } }]
        : []),
      { label: `fold ${fold}`, stroke: COLORS[index % COLORS.length], width: 2, spanGaps: true, value: number,
        points: { show: false } },
    ]);
    const axis = { stroke: color("--ink"), grid: { stroke: color("--grid") }, ticks: { stroke: color("--grid") } };
    const options = {
      width: place.clientWidth,
      height: 300,
      cursor: { sync: { key: sync.key }, drag: { x: true, y: false } },
      scales: { x: { time: false }, y: log ? { distr: 3 } : {} },
      axes: [{ ...axis, label: "epoch" }, { ...axis, size: 70, label: title, values: (plot, ticks) => ticks.map((tick) => (tick === null ? "" : format(tick).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, ""))) }],
      series: [{ label: "epoch" }, ...lines],
    };
    place.setAttribute("aria-label", `${title} of each fold over the epochs`);
    plots.push(new uPlot(options, series(key), place));
  }
}

// A range that was chosen stays while epochs come.
function refresh(whole = false) {
  for (const [place, [key]] of PLOTS.entries()) {
    const plot = plots[place];
    const [epochs] = plot.data;
    const { min, max } = plot.scales.x;
    const chosen = !whole && epochs.length > 1 && (min > epochs[0] || max < epochs.at(-1));
    plot.batch(() => {
      plot.setData(series(key), !chosen);
      if (chosen) plot.setScale("x", { min, max });
    });
  }
}

function report(fold) {
  const row = document.getElementById(`fold_${fold.fold}`);
  const last = folds.get(fold.fold).epochs.at(-1);
  const word = row.querySelector(".state");
  word.className = `state ${fold.state}`;
  word.textContent = fold.state;
  const show = (name, value) => (row.querySelector(`[data-show=${name}]`).textContent = value ?? "–");
  show("done", `${fold.done} of ${fold.total}`);
  show("training", last?.training_loss?.toFixed(4));
  show("best", fold.best && fold.best.loss !== null ? `${fold.best.loss.toFixed(4)} (epoch ${fold.best.epoch})` : null);
  show("rate", last?.learning_rate?.toExponential(2));
  show("waiting", last ? `${Math.round(100 * last.waiting)} %` : null);
  show("seconds", last ? `${last.seconds.toPrecision(3)} s` : null);
  show("left", fold.left || null);
}

async function update(first) {
  if (document.hidden && !first) return;
  const known = [...folds.values()].map((fold) => `${fold.fold}=${fold.epochs.length}`).join("&");
  const answer = await fetch(`${root.dataset.epochs}?${known}`).catch(() => null);
  document.getElementById("offline").hidden = Boolean(answer?.ok);
  if (!answer?.ok) return;
  let changed = false;
  let restart = false; // a training began or ended, so that a fold has a training before
  for (const fold of await answer.json()) {
    const before = folds.get(fold.fold);
    // A training that starts from scratch has fewer epochs than this page knows: its first answer holds them all.
    const kept = before && fold.start ? before.epochs.slice(0, fold.start) : [];
    const same = before && fold.start === before.epochs.length && !fold.epochs.length && before.state === fold.state;
    restart ||= Boolean(before) && fold.start < before.epochs.length;
    folds.set(fold.fold, {
      ...fold,
      epochs: [...kept, ...fold.epochs],
      before: fold.start && before ? before.before : fold.before,
    });
    changed ||= !same;
    report(fold);
  }
  if (first || restart) draw();
  else if (changed) refresh();
}

for (const control of [smooth, logarithmic]) control.addEventListener("input", draw);
document.getElementById("whole").addEventListener("click", () => refresh(true));
addEventListener("resize", () => plots.forEach((plot) => plot.setSize({ width: plot.root.parentElement.clientWidth, height: 300 })));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
addEventListener("beforeprint", draw);

await update(true);
setInterval(() => update(false), 2000);
