// A sweep's heat map, and reward against KL.

// One hue, from the card's colour to the accent's: more colour is more. Lightness alone says it, so that no eye or printer loses it.
const mapScale = () => (isDark() ? ["#1d2a3a", "#24466b", "#2f6ba6", "#5b9ddb", "#a8d1ff"] : ["#eef5fc", "#c3dcf3", "#84b6e3", "#3a82c4", "#0b4a8a"]);
const channels = (hex) => [1, 3, 5].map((place) => parseInt(hex.slice(place, place + 2), 16));
const luminance = (rgb) => rgb.map((value) => value / 255).map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
  .reduce((sum, value, place) => sum + value * [0.2126, 0.7152, 0.0722][place], 0);

// Black or white, whichever is read more easily on a share of the scale: at least 4.5 to 1 on any colour.
const inkOn = (share) => {
  const scale = mapScale(), place = Math.min(scale.length - 2, Math.floor(share * (scale.length - 1))), rest = share * (scale.length - 1) - place;
  const [low, high] = [channels(scale[place]), channels(scale[place + 1])];
  return luminance(low.map((value, channel) => value + rest * (high[channel] - value))) > 0.179 ? "#000000" : "#ffffff";
};

const drawMap = () => {
  const keys = byId("map-keys").value, name = byId("map-metric").value;
  const map = DATA.maps.find((one) => one.metric === name && `${one.rows}\n${one.columns}` === keys);
  const metric = aboutMetric(name);
  byId("map").style.height = `${Math.min(34, 9 + 3.1 * map.y.length)}rem`;
  byId("map-note").textContent = [
    map.over.length > 0 && `Means over ${map.over.map((key) => (key === "seed" ? "seeds" : key)).join(", ")}.`,
    map.best !== null && "★ best mean, outlined.",
    map.over.some((key) => key !== "seed") && "Cells average over more than seeds, so compare them with care.",
    map.own_scales && "Each loss has its own scale of this metric: compare cells of one loss only.",
  ].filter(Boolean).join(" ");
  const known = map.z.flat().filter((value) => value !== null), low = Math.min(...known), high = Math.max(...known);
  const shapes = [], annotations = [];
  map.z.forEach((row, y) => row.forEach((value, x) => {
    if (value === null) return;
    const isBest = value === map.best;
    annotations.push({ x, y, text: `${isBest ? "★ " : ""}${plain(map.text[y][x])}`, showarrow: false, font: { size: narrow() ? 12 : 14, color: inkOn(high > low ? (value - low) / (high - low) : 0.5) } });
    if (isBest) shapes.push({ type: "rect", x0: x - 0.5, x1: x + 0.5, y0: y - 0.5, y1: y + 0.5, line: { color: colour("ink"), width: 3 } });
  }));
  Plotly.react("map", [{
    type: "heatmap", x: map.x.map((_, place) => place), y: map.y.map((_, place) => place), z: map.z,
    colorscale: mapScale().map((shade, place, all) => [place / (all.length - 1), shade]), xgap: 2, ygap: 2, hoverongaps: false,
    customdata: map.z.map((row, y) => row.map((_, x) => [plain(`${map.rows}=${map.y[y]}`), plain(`${map.columns}=${map.x[x]}`), counted(map.runs[y][x], "run")])),
    hovertemplate: "%{customdata[0]}<br>%{customdata[1]}<br><b>%{z:.5g}</b>, mean of %{customdata[2]}<extra></extra>",
    colorbar: { thickness: 12, outlinewidth: 0, title: { text: narrow() ? "" : plain(withUnit(metric)), side: "right" }, tickfont: { size: 12 } },
    showscale: !narrow(),
  }], layout({
    shapes, annotations, xaxis: axis(map.columns, { tickvals: map.x.map((_, place) => place), ticktext: map.x.map((value) => plain(short(value, 24))), showgrid: false, zeroline: false }),
    yaxis: axis(map.rows, { tickvals: map.y.map((_, place) => place), ticktext: map.y.map((value) => plain(short(value, 24))), showgrid: false, zeroline: false, autorange: "reversed" }),
  }), config("heat-map"));
};

// The pairs of keys over which the chosen metric has a map; the pair that was chosen stays so where it is one.
const fillKeys = () => {
  const before = byId("map-keys").value;
  const pairs = DATA.maps.filter((map) => map.metric === byId("map-metric").value).map((map) => `${map.rows}\n${map.columns}`);
  fill(byId("map-keys"), pairs.map((pair) => [pair, pair.replace("\n", " × ")]));
  if (pairs.includes(before)) byId("map-keys").value = before;
};

const startMaps = () => {
  if (!byId("maps")) return;
  const metrics = [...new Set(DATA.maps.map((map) => map.metric))];
  fill(byId("map-metric"), metrics.map((name) => [name, name]));
  fillKeys();
  byId("map-metric").addEventListener("input", () => { fillKeys(); drawMap(); });
  byId("map-keys").addEventListener("input", drawMap);
  drawMap();
  repaints.push(drawMap);
};

const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x", "triangle-down"];

const drawFrontier = () => {
  const methods = [...new Set(DATA.frontier.map((point) => point.method))];
  const made = methods.map((method, place) => {
    const points = DATA.frontier.filter((point) => point.method === method).sort((one, other) => one.kl[0] - other.kl[0]);
    const { colour: stroke, dash } = look(place, methods.map(() => "method"));
    const bars = (values) => ({ type: "data", array: values.map((value) => value ?? 0), color: stroke, thickness: 1.2, width: 3 });
    return {
      type: "scatter", mode: "lines+markers", name: plain(method), x: points.map((point) => point.kl[0]), y: points.map((point) => point.gold[0]),
      error_x: bars(points.map((point) => point.kl[1])), error_y: bars(points.map((point) => point.gold[1])),
      line: { color: stroke, dash, width: 1.8 }, marker: { color: stroke, symbol: SYMBOLS[place % SYMBOLS.length], size: 9 },
      customdata: points.map((point) => [plain(point.strength), counted(point.seeds, "seed")]),
      hovertemplate: `<b>${plain(method)}</b> %{customdata[0]}<br>KL %{x:.4g} nats<br>gold %{y:.4g}<br>%{customdata[1]}<extra></extra>`,
    };
  });
  byId("frontier-plot").style.height = narrow() ? "22rem" : "28rem";
  const seeds = DATA.frontier.map((point) => point.seeds), few = Math.min(...seeds), many = Math.max(...seeds);
  byId("frontier-note").textContent = many > 1
    ? `Means over ${few === many ? few : `${few} to ${many}`} seeds, bars 95 % intervals in both directions; a single seed has none.`
    : "One seed a point, so there are no error bars.";
  Plotly.react("frontier-plot", made, layout({
    showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
    xaxis: axis("KL(policy | reference), nats a sequence", { rangemode: "tozero" }), yaxis: axis("gold score"),
  }), config("frontier"));
};

const startFrontier = () => {
  if (!byId("frontier")) return;
  drawFrontier();
  repaints.push(drawFrontier);
};
