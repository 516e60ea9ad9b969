// Curves: a line a run, whatever is switched on, at the resolution of the screen.

const MOST_DRAWN = 30000; // points of all lines at once: more take seconds and show no more
const steps = [];
const stepsOf = (place) => (steps[place] ??= new Int32Array(bytes(DATA.steps[place])));
const blocks = new Map();
const curvesOf = (name) => { // of a metric, by run
  if (!blocks.has(name)) {
    const place = DATA.metrics.findIndex((metric) => metric.name === name);
    const block = JSON.parse(byId(`curve-${place}`).textContent);
    blocks.set(name, new Map(block.map(([run, at, values]) => [run, { x: stepsOf(at), y: new Float32Array(bytes(values)) }])));
  }
  return blocks.get(name);
};

// The lowest and the highest value of each column of pixels, both ends, and the points just outside the range.
const decimate = (x, y, low, high, columns) => {
  let first = 0, last = x.length - 1;
  while (first < last && x[first + 1] < low) first++;
  while (last > first && x[last - 1] > high) last--;
  if (last - first + 1 <= 2 * columns) return { x: Array.from(x.subarray(first, last + 1)), y: Array.from(y.subarray(first, last + 1)), whole: true };
  const kept = [first];
  for (let column = 0; column < columns; column++) {
    const from = first + Math.floor(((last - first + 1) * column) / columns);
    const until = first + Math.floor(((last - first + 1) * (column + 1)) / columns);
    let lowest = from, highest = from;
    for (let place = from; place < until; place++) {
      if (y[place] < y[lowest]) lowest = place;
      if (y[place] > y[highest]) highest = place;
    }
    for (const place of lowest < highest ? [lowest, highest] : [highest, lowest]) if (place > kept[kept.length - 1]) kept.push(place);
  }
  if (kept[kept.length - 1] < last) kept.push(last);
  return { x: kept.map((place) => x[place]), y: kept.map((place) => y[place]), whole: false };
};

// Exponential moving average over logged rows, without the pull of its start.
const smooth = (y, weight) => {
  const smoothed = new Float32Array(y.length);
  let sum = 0, norm = 0;
  for (let place = 0; place < y.length; place++) {
    sum = weight * sum + (1 - weight) * y[place];
    norm = weight * norm + (1 - weight);
    smoothed[place] = sum / norm;
  }
  return smoothed;
};

const chosen = { runs: new Set(DATA.runs.keys()), range: null };
const hidden = DATA.keys.map(() => new Set()); // of each key the values that are switched off
const isOn = (run) => chosen.runs.has(run) && hidden.every((values, key) => !values.has(DATA.runs[run].values[key]));

const colourKey = () => Number(byId("colour").value);
const lookOf = (run) => {
  const key = colourKey();
  const values = key < 0 ? DATA.runs.map(() => "") : DATA.keys[key].values;
  return look(key < 0 ? run : values.indexOf(DATA.runs[run].values[key]), values);
};
const describeRun = (run) => DATA.keys.map((key, place) => `${key.name}=${DATA.runs[run].values[place]}`).filter((text) => !text.endsWith("=·"));

const settingOf = (run) => describeRun(run).filter((text) => !text.startsWith("seed=")).join(", ");

// A run's values as they are drawn: smoothed where that is asked for, over steps or over its own length.
const prepared = (curve) => {
  const weight = Number(byId("smoothing").value), end = curve.x[curve.x.length - 1] || 1;
  return { x: byId("clock").value === "share" ? Float64Array.from(curve.x, (step) => step / end) : curve.x, y: weight ? smooth(curve.y, weight) : curve.y };
};

const hover = (name) => {
  const asShare = byId("clock").value === "share", smoothed = Number(byId("smoothing").value) ? " smoothed" : "";
  return `<b>${name}</b><br>${asShare ? "share %{x:.1%}" : "step %{x:,}"}<br>%{y:.5g}${smoothed}<extra></extra>`;
};

const traceOf = (run, curve, columns, count) => {
  const on = isOn(run), { colour: stroke, dash } = lookOf(run), { x, y } = prepared(curve), name = plain(DATA.runs[run].name);
  const points = on ? decimate(x, y, ...(chosen.range || [-Infinity, Infinity]), columns) : { x: [], y: [], whole: true };
  return {
    type: "scatter", mode: points.x.length === 1 ? "markers" : "lines", x: points.x, y: points.y, visible: on, name, meta: { run, whole: points.whole },
    line: { color: stroke, dash, width: count > 20 ? 1.1 : 1.7 }, marker: { color: stroke }, hovertemplate: hover(name),
  };
};

// The runs of one setting that are on: their mean where all of them have a value, and a band from the lowest to the highest.
const meanTraces = (runs, metric, columns) => {
  const own = runs.map((run) => prepared(curvesOf(metric.name).get(run)));
  const at = new Map();
  for (const { x, y } of own) for (let place = 0; place < x.length; place++) {
    const sum = at.get(x[place]) || { count: 0, sum: 0, low: Infinity, high: -Infinity };
    at.set(x[place], { count: sum.count + 1, sum: sum.sum + y[place], low: Math.min(sum.low, y[place]), high: Math.max(sum.high, y[place]) });
  }
  const shared = [...at].filter(([, cell]) => cell.count === own.length).sort(([one], [other]) => one - other);
  const x = Float64Array.from(shared, ([step]) => step), range = chosen.range || [-Infinity, Infinity];
  const [mean, low, high] = [(cell) => cell.sum / cell.count, (cell) => cell.low, (cell) => cell.high]
    .map((part) => decimate(x, Float64Array.from(shared, ([, cell]) => part(cell)), ...range, columns));
  const { colour: stroke, dash } = lookOf(runs[0]), name = plain(settingOf(runs[0]) || "all runs");
  const line = { type: "scatter", mode: mean.x.length === 1 ? "markers" : "lines", x: mean.x, y: mean.y, name, line: { color: stroke, dash, width: 2 }, marker: { color: stroke },
    meta: { whole: mean.whole }, hovertemplate: hover(`${name}<br>mean of ${counted(runs.length, "run")}`) };
  const band = { type: "scatter", mode: "lines", x: [...low.x, ...high.x.slice().reverse()], y: [...low.y, ...high.y.slice().reverse()], fill: "toself", fillcolor: `${stroke}26`,
    line: { width: 0 }, hoverinfo: "skip", meta: { whole: true } };
  return runs.length > 1 ? [band, line] : [line];
};

// Stretches into which lines are cut, each drawn as its lowest and highest value: columns of pixels, or wider where lines are many.
const stretches = (lines) => Math.max(100, Math.min(byId("plot").clientWidth || 800, Math.round(MOST_DRAWN / 2 / Math.max(1, lines))));

const traces = (metric) => {
  const curves = curvesOf(metric.name);
  if (byId("draw").value === "runs") {
    const columns = stretches([...curves.keys()].filter(isOn).length);
    return [...curves].map(([run, curve]) => traceOf(run, curve, columns, curves.size));
  }
  const settings = new Map();
  for (const run of [...curves.keys()].filter(isOn)) settings.set(settingOf(run), [...(settings.get(settingOf(run)) || []), run]);
  return [...settings.values()].flatMap((runs) => meanTraces(runs, metric, stretches(3 * settings.size)));
};

const drawLegend = () => {
  const key = colourKey(), list = byId("legend");
  if (key < 0) { list.replaceChildren(); return; }
  const values = DATA.keys[key].values, there = new Set([...curvesOf(byId("metric").value).keys()].filter(isOn).map((run) => DATA.runs[run].values[key]));
  list.replaceChildren(...values.filter((value) => there.has(value)).map((value) => element("li", {}, swatch(look(values.indexOf(value), values)), `${DATA.keys[key].name}=${value}`)));
};

const drawCurves = () => {
  const metric = aboutMetric(byId("metric").value);
  const made = traces(metric), runs = [...curvesOf(metric.name).keys()];
  const thinned = made.some((trace) => !trace.meta.whole);
  const asShare = byId("clock").value === "share";
  byId("meaning").textContent = [metric.meaning, ARROWS[metric.better]].filter(Boolean).join("; ");
  byId("count").textContent = `${runs.filter(isOn).length} of ${runs.length} drawn`;
  byId("smoothing").nextElementSibling.textContent = Number(byId("smoothing").value) ? Number(byId("smoothing").value).toFixed(2) : "none";
  const missing = DATA.runs.length - runs.length;
  byId("drawn").textContent = [
    byId("draw").value === "means" && "Means over the runs of each setting that are switched on, with a band from the lowest to the highest of them.",
    thinned && "Each line is drawn as the lowest and the highest value of stretches a few pixels wide; zoom in to see every value.",
    Number(byId("smoothing").value) && "Smoothed: an exponential moving average over logged rows, not what was measured.",
    missing && `${counted(missing, "run")} of ${DATA.runs.length} ${missing === 1 ? "does" : "do"} not log this metric.`,
  ].filter(Boolean).join(" ");
  drawLegend();
  return Plotly.react("plot", made, layout({
    xaxis: axis(asShare ? "share of the run" : "step", { automargin: false, range: chosen.range || undefined, autorange: !chosen.range, tickformat: asShare ? ".0%" : "," }),
    yaxis: axis(withUnit(metric), { automargin: false }), margin: { l: 76, r: 24, t: 10, b: 50 }, uirevision: `${metric.name} ${asShare}`,
  }), config("curves"));
};

let waiting = 0;
const redrawCurves = () => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(drawCurves); };

const box = (text, checked, changed) => {
  const input = element("input", { type: "checkbox", checked });
  input.addEventListener("change", () => changed(input.checked));
  return element("label", {}, input, text);
};

const drawFilters = () => {
  byId("facets").replaceChildren(...DATA.keys.filter((key) => key.values.length > 1).map((key) => {
    const place = DATA.keys.indexOf(key);
    const boxes = key.values.map((value) => box(value, !hidden[place].has(value), (on) => {
      if (on) hidden[place].delete(value); else hidden[place].add(value);
      redrawCurves();
    }));
    return element("fieldset", {}, element("legend", {}, key.name), element("div", { class: "facet" }, ...boxes));
  }));
  byId("boxes").replaceChildren(...DATA.runs.map((run, place) => box(run.name, chosen.runs.has(place), (on) => {
    if (on) chosen.runs.add(place); else chosen.runs.delete(place);
    redrawCurves();
  })));
};

const zoomed = (change) => {
  const range = change["xaxis.autorange"] ? null : [change["xaxis.range[0]"], change["xaxis.range[1]"]];
  if (range && range[0] === undefined) return;
  chosen.range = range && range.map(Number);
  redrawCurves();
};

// The values of the other metrics stand at the end of the page.
const allMetrics = () => {
  if (byId("curves")) fill(byId("metric"), DATA.metrics.map((metric) => [metric.name, metric.name]));
};

const startCurves = () => {
  if (!byId("curves")) return;
  fill(byId("metric"), DATA.metrics.slice(0, 1).map((metric) => [metric.name, metric.name]));
  fill(byId("colour"), [...DATA.keys.map((key, place) => [place, key.name]), [-1, "run"]]);
  const first = DATA.keys.findIndex((key) => key.values.length > 1 && key.values.length <= 7 && key.name !== "seed");
  byId("colour").value = first >= 0 ? first : DATA.runs.length > 7 && DATA.keys.length ? 0 : -1;
  byId("draw").value = new Set(DATA.runs.map((_, run) => settingOf(run))).size < DATA.runs.length && DATA.runs.length > 20 ? "means" : "runs";
  drawFilters();
  for (const id of ["draw", "colour", "smoothing"]) byId(id).addEventListener("input", redrawCurves);
  for (const id of ["metric", "clock"]) byId(id).addEventListener("input", () => { chosen.range = null; redrawCurves(); });
  for (const [id, on] of [["all", true], ["none", false]]) byId(id).addEventListener("click", () => {
    chosen.runs = new Set(on ? DATA.runs.keys() : []);
    if (on) hidden.forEach((values) => values.clear());
    drawFilters();
    redrawCurves();
  });
  drawCurves().then(() => {
    performance.mark("curves drawn");
    byId("plot").on("plotly_relayout", zoomed);
  });
  repaints.push(redrawCurves);
};
