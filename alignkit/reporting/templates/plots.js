// What all plots share. Plotly reads a little HTML in texts, so that texts of data are escaped for it.

const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", Arial, sans-serif';
const narrow = () => innerWidth < 640;

const axis = (title, more = {}) => ({
  title: { text: plain(title), standoff: 10, font: { size: 13 } },
  gridcolor: colour("grid"), linecolor: colour("line"), zerolinecolor: colour("line"), tickcolor: colour("line"),
  tickfont: { size: 12 }, automargin: true, ...more,
});

const layout = (more = {}) => ({
  paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
  font: { family: FONT, size: 13, color: colour("quiet") },
  margin: { l: 10, r: 24, t: 10, b: 10 },
  hoverlabel: { bgcolor: colour("card"), bordercolor: colour("line"), font: { color: colour("ink"), family: FONT, size: 13 }, align: "left", namelength: 0 },
  showlegend: false, hovermode: "closest", ...more,
});

const config = (name) => ({
  displaylogo: false, responsive: true, displayModeBar: narrow() ? false : "hover",
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  toImageButtonOptions: { format: "svg", filename: name },
});

const number = (value) => Number(value.toPrecision(4)).toString().replace("-", "−");
const aboutMetric = (name) => DATA.metrics.find((metric) => metric.name === name) || { name, unit: "", better: "neither", meaning: "" };
const withUnit = (metric) => `${metric.name}${metric.unit && metric.unit !== "1" ? ` (${metric.unit})` : ""}`;
const ARROWS = { higher: "higher is better", lower: "lower is better", neither: "" };

const swatch = ({ colour: stroke, dash }) => {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("width", "34");
  svg.setAttribute("height", "10");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
  for (const [name, value] of Object.entries({ x1: 1, x2: 33, y1: 5, y2: 5, stroke, "stroke-width": 2.5, "stroke-dasharray": DASH_ARRAYS[dash] })) line.setAttribute(name, value);
  svg.append(line);
  return svg;
};

const bytes = (text) => {
  const binary = atob(text), made = new Uint8Array(binary.length);
  for (let place = 0; place < binary.length; place++) made[place] = binary.charCodeAt(place);
  return made.buffer;
};
