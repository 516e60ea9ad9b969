// Contrast ratios of WCAG 2.2, measured in the page that a test has opened.

const channels = (text) => text.match(/[\d.]+/g).map(Number);
const light = (rgb) => rgb.slice(0, 3).map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
  .reduce((sum, v, place) => sum + v * [0.2126, 0.7152, 0.0722][place], 0);
const ratio = (first, second) => (Math.max(light(first), light(second)) + 0.05) / (Math.min(light(first), light(second)) + 0.05);

const behind = (element) => { // the nearest background that hides what lies under it
  for (let one = element; one; one = one.parentElement) {
    const back = channels(getComputedStyle(one).backgroundColor);
    if (back.length < 4 || back[3] === 1) return back;
  }
  return [255, 255, 255];
};

const ofTexts = () => { // the worst first, each with its text; numbers on a heat map lie on cells and are measured elsewhere
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    const skipped = ["SCRIPT", "STYLE", "OPTION"].includes(element.tagName) || element.closest("#map .infolayer .annotation");
    if (!own || skipped || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    found.push([ratio(channels(element instanceof SVGElement ? style.fill : style.color), behind(element)), element.textContent.trim().slice(0, 40)]);
  }
  return found.sort((one, other) => one[0] - other[0]);
};

const ofLines = () => [...document.querySelectorAll("#plot .scatterlayer path.js-line")]
  .map((line) => ratio(channels(line.style.stroke), behind(document.querySelector("#curves"))));

const ofCells = () => { // of numbers on the heat map, whose cells are coloured linearly between the stops of its scale
  const { data: [map], layout: { annotations } } = document.getElementById("map");
  const hex = (text) => [1, 3, 5].map((place) => parseInt(text.slice(place, place + 2), 16));
  const known = map.z.flat().filter((value) => value !== null), low = Math.min(...known), high = Math.max(...known);
  return annotations.map(({ x, y, font }) => {
    const share = (map.z[y][x] - low) / (high - low), next = Math.max(1, map.colorscale.findIndex(([place]) => place >= share));
    const [[from, first], [until, second]] = map.colorscale.slice(next - 1, next + 1);
    const cell = hex(first).map((value, channel) => value + ((share - from) / (until - from)) * (hex(second)[channel] - value));
    return ratio(cell, hex(font.color));
  });
};
