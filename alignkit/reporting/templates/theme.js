// Light and dark, and the colours that plots need as numbers.

const byId = (id) => document.getElementById(id);
const DATA = JSON.parse(byId("data").textContent);
const root = document.documentElement;
const repaints = []; // what is drawn again when colours change

const remembered = (value) => {
  try { // pages opened from a file may have no storage
    if (value === undefined) return localStorage.getItem("alignkit.report.theme") || "";
    localStorage.setItem("alignkit.report.theme", value);
  } catch { /* then the choice lasts as long as the page */ }
  return value || "";
};

const setTheme = (theme) => {
  if (theme) root.dataset.theme = theme; else delete root.dataset.theme;
};

const startTheme = () => {
  const saved = remembered();
  for (const input of document.querySelectorAll("#theme input")) {
    input.checked = input.value === saved;
    input.addEventListener("change", () => { setTheme(input.value); remembered(input.value); repaints.forEach((draw) => draw()); });
  }
  setTheme(saved);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => repaints.forEach((draw) => draw()));
};

const probe = document.createElement("span");
probe.hidden = true;
document.body.append(probe);
const colour = (name) => { // what the style sheet makes of a variable, as rgb()
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
};

const isDark = () => { // by the page's own background, whatever chose it
  const [red, green, blue] = colour("card").match(/[\d.]+/g).map(Number);
  return red + green + blue < 384;
};

// After Okabe and Ito, who chose them for colour-blind readers; on white darkened until each stands out 3 to 1.
const LIGHT = ["#0072b2", "#d55e00", "#007f5c", "#b0508c", "#2f8fca", "#8a6a00", "#3d4450"];
const DARK = ["#56b4e9", "#ff8c42", "#2fc79a", "#e6a0c8", "#8fd0ff", "#f0c94a", "#d5dae2"];
// Viridis without its end that the background swallows: for values that have an order.
const LIGHT_SCALE = ["#440154", "#443983", "#31688e", "#21918c", "#2c9f5f", "#7a9a00"];
const DARK_SCALE = ["#7a78c8", "#4f9bc4", "#2fb3a8", "#43bf71", "#90d743", "#fde725"];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];
const DASH_ARRAYS = { solid: "", dash: "7 4", dot: "2 3", dashdot: "7 3 2 3", longdash: "12 4" };

// How the n-th of several values looks. Dashes tell apart what shares a colour, and stand in for colours in grey print.
const look = (number, values) => {
  const named = values.filter((value) => value !== "·");
  const ordered = named.length > 2 && named.every((value) => value !== "" && Number.isFinite(Number(value)));
  if (ordered && number < named.length) {
    const scale = isDark() ? DARK_SCALE : LIGHT_SCALE;
    return { colour: scale[Math.round((number / (named.length - 1)) * (scale.length - 1))], dash: DASHES[number % DASHES.length] };
  }
  const colours = isDark() ? DARK : LIGHT;
  const turn = Math.floor(number / colours.length);
  return { colour: colours[number % colours.length], dash: DASHES[(number + turn) % DASHES.length] };
};
