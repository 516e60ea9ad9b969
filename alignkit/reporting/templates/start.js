// Everything once, curves first; the rest when the browser has read the page to its end and has time.

startTheme();
startTables();
startCurves();
const soon = window.requestIdleCallback || ((work) => setTimeout(work, 50));
addEventListener("DOMContentLoaded", () => { for (const start of [allMetrics, startMaps, startFrontier, startSamples]) soon(start); });

let resizing = 0, width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === width) return; // a phone's address bar comes and goes
  width = innerWidth;
  clearTimeout(resizing);
  resizing = setTimeout(() => repaints.forEach((draw) => draw()), 200);
});
