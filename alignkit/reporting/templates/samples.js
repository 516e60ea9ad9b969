// Samples side by side: the reference once, then each run's policy, word by word.

const SHOWN_RUNS = 4;
let SAMPLES = null, sampled = []; // read once the whole page is there
const readers = new Set();

const marked = (parts, marks) => parts.flatMap(([kind, text]) => {
  if (kind === 0 || (kind === 1 && !marks)) return [text];
  const words = text.trimStart(), space = text.slice(0, text.length - words.length);
  return marks ? [space, element(kind === 1 ? "ins" : "del", {}, words)] : [];
});

const scoreLine = (scores) => Object.entries(scores).map(([name, value]) => `${name} ${number(value)}`).join(" · ");

const card = (title, line, content, kind = "") => element("article", { class: `text ${kind}` },
  element("h3", {}, title), element("div", { class: "quiet" }, line), element("p", { class: "words" }, ...(content.length ? content : ["(nothing)"])));

// Whether a run's name says a key's value already, as those of sweeps do: `loss=dpo` for `loss.name=dpo`.
const isIn = (name, text) => name.split(/[,/]/).some((part) => part.endsWith(text.slice(text.indexOf("="))));

const drawSamples = () => {
  const prompt = Number(byId("prompt").value), step = byId("step").value, marks = byId("marks").checked;
  byId("asked").textContent = SAMPLES.prompts[prompt];
  const cards = [], references = new Map();
  for (const run of sampled.filter((number) => readers.has(number))) {
    const own = SAMPLES.items.filter((item) => item.run === run && item.prompt === prompt);
    const item = step === "last" ? own[own.length - 1] : own.find((one) => one.step === Number(step));
    const name = DATA.runs[run].name, about = describeRun(run).filter((text) => !isIn(name, text)).join(", ");
    if (!item) {
      cards.push(card(name, about, ["has no sample of this prompt at this step"]));
      continue;
    }
    for (const answer of item.answers) {
      if (answer.reference !== null) references.set(answer.reference, [...(references.get(answer.reference) || []), name]);
      cards.push(card(name, [about, SAMPLES.steps.length > 1 && `step ${item.step}`, scoreLine(answer.scores)].filter(Boolean).join(" · "), marked(answer.parts, marks)));
    }
  }
  const several = references.size > 1;
  const first = [...references].map(([place, names]) => card("Reference", several ? `of ${names.join(", ")}` : "the reference's answer", [SAMPLES.references[place]], "reference"));
  byId("texts").replaceChildren(...first, ...cards);
  byId("sample-runs").querySelector("summary").textContent = `Runs shown: ${readers.size} of ${sampled.length}`;
};

// The first run of each setting, so that what is compared is settings and not seeds.
const firstReaders = () => {
  const seed = DATA.keys.findIndex((key) => key.name === "seed"), seen = new Set();
  for (const run of sampled) {
    const setting = DATA.runs[run].values.filter((_, place) => place !== seed).join("\n");
    if (!seen.has(setting) && readers.size < SHOWN_RUNS) readers.add(run);
    seen.add(setting);
  }
};

const startSamples = () => {
  if (!byId("samples")) return;
  SAMPLES = JSON.parse(byId("texts-data").textContent);
  sampled = [...new Set(SAMPLES.items.map((item) => item.run))];
  firstReaders();
  fill(byId("prompt"), SAMPLES.prompts.map((text, place) => [place, `${place + 1}. ${short(text.replace(/\s+/g, " "), 110)}`]));
  fill(byId("step"), [["last", "last of each run"], ...SAMPLES.steps.map((step) => [step, `step ${step}`])]);
  byId("sample-runs").querySelector(".boxes").replaceChildren(...sampled.map((run) => box(DATA.runs[run].name, readers.has(run), (on) => {
    if (on) readers.add(run); else readers.delete(run);
    drawSamples();
  })));
  for (const id of ["prompt", "step", "marks"]) byId(id).addEventListener("input", drawSamples);
  drawSamples();
};
